/* The gallery: its controls, what they ask in the address, and the cards that fit. */
"use strict";

(() => {
  const listing = window.finerRayListing;
  const data = window.finerRayImages;
  // Cards that are added at a time; as many stand in the page without scripts.
  const SLICE = 120;
  const control = (name) => document.getElementById(name);
  const form = control("finding");
  const list = control("cards");
  const lacking = new Set(data.lacking);
  const cards = new Map([...list.children].map((card, place) => [place, card]));
  let state = listing.empty();
  let found = [];
  let shown = 0;

  function make(name, settings = {}, ...inside) {
    const element = Object.assign(document.createElement(name), settings);
    element.append(...inside);
    return element;
  }

  /* Controls, of which each sets one bound of one field. */
  function bound(kind, field, element) {
    Object.assign(element.dataset, { bound: kind, field: field.name });
    return element;
  }

  const isOwn = (field) => field.name.startsWith("own.");

  function choice(field) {
    const options = field.options.map((text, place) => new Option(text, field.keys[place]));
    const title = field.title[0].toUpperCase() + field.title.slice(1);
    return make("label", {}, `${isOwn(field) ? field.title : title} `, bound("is", field, make("select", {}, new Option("all", ""), ...options)));
  }

  function text(field) {
    return make("label", {}, `${field.title} `, bound("is", field, make("input", { type: "text", placeholder: "contains" })));
  }

  function range(field) {
    const known = field.values.filter((value) => value !== null);
    const ends = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
    const inputs = ["min", "max"].map((kind, place) => {
      const input = make("input", { type: "number", step: "any", placeholder: String(Number(ends[place].toPrecision(3))) });
      input.setAttribute("aria-label", `${field.title}, ${kind === "min" ? "at least" : "at most"}`);
      return bound(kind, field, input);
    });
    return make("div", { className: "range", title: field.words }, make("span", {}, field.title), ...inputs);
  }

  function build() {
    for (const field of data.fields) {
      control("sort").append(new Option(field.title, field.name));
      const made = { choice, text, number: range }[field.kind](field);
      if (field.kind === "choice" && !isOwn(field)) form.insertBefore(made, control("more"));
      else control("bounds").append(made);
    }
  }

  /* From the controls to the state, and back. */
  function collect() {
    const asked = { ...listing.empty(), q: control("q").value, sort: control("sort").value, tint: state.tint, box: state.box };
    if (asked.sort === state.sort && control("order").value !== listing.ordered(data, { ...asked, order: "" })) {
      asked.order = control("order").value;
    }
    for (const element of form.querySelectorAll("[data-bound]")) {
      if (element.value !== "") asked[element.dataset.bound][element.dataset.field] = element.value;
    }
    return asked;
  }

  function spread() {
    control("q").value = state.q;
    control("sort").value = state.sort;
    for (const element of form.querySelectorAll("[data-bound]")) {
      const { bound: kind, field } = element.dataset;
      element.value = state[kind][field] ?? "";
      if (state[kind][field] !== undefined && control("more").contains(element)) control("more").open = true;
    }
  }

  function verdict(place) {
    const label = data.label[place];
    if (label === null) return ["badge", "no label"];
    return label === data.predicted[place] ? ["badge good", "✓ right"] : ["badge bad", `✗ labelled ${data.names[label]}`];
  }

  const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)}\u00a0%`);
  const fieldOf = (name) => data.fields.find((field) => field.name === name);

  /* A card, from the page or from its template. */
  function card(place) {
    if (!cards.has(place)) {
      const made = control("card").content.firstElementChild.cloneNode(true);
      const name = data.names[data.predicted[place]];
      if (lacking.has(data.rows[place])) {
        made.querySelector(".pair")?.replaceWith(make("span", { className: "lacking" }, "photo not at hand"));
      } else {
        made.querySelectorAll("img").forEach((image, number) => {
          image.src = `images/${data.rows[place]}${number ? "-map" : ""}.jpg`;
          if (!number) image.alt = `Photo: ${name}`;
          [image.height, image.width] = data.sizes[place];
        });
      }
      made.querySelector(".name").replaceChildren(`${name} `, make("small", {}, percent(fieldOf("confidence")?.values[place])));
      const [className, words] = verdict(place);
      made.querySelector(".note").replaceChildren(make("span", { className }, words));
      cards.set(place, made);
    }
    const made = cards.get(place);
    made.querySelector("a").href = address(place);
    note(made, place);
    return made;
  }

  /* What the images are sorted by is said of each. */
  function note(made, place) {
    const field = fieldOf(state.sort);
    const said = state.sort === "key" ? data.keys[place] : field?.kind === "number" && field.values[place];
    let element = made.querySelector(".value");
    if (!element) made.querySelector(".note").append((element = make("span", { className: "value" })));
    const known = said !== undefined && said !== null && said !== false;
    element.textContent = known ? (field ? `${field.title} ${Number(said.toPrecision(3))}` : said) : "";
    element.hidden = !known;
  }

  function address(place) {
    const of = listing.write(state);
    return `images/${data.rows[place]}.html${of ? `?${new URLSearchParams({ of })}` : ""}`;
  }

  function grow(count) {
    const before = shown;
    shown = Math.min(found.length, count);
    list.append(...found.slice(before, shown).map(card));
    control("further").hidden = shown === found.length;
    control("further").textContent = `Show more, ${found.length - shown} are left`;
  }

  function draw(count = SLICE) {
    found = listing.places(data, state);
    list.replaceChildren();
    shown = 0;
    grow(count);
    control("found").textContent = `${found.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")}`;
    control("asked").textContent = listing.words(data, state);
    control("clear").hidden = !control("asked").textContent;
    const words = listing.orderWords(data, state);
    for (const option of control("order").options) option.textContent = words[option.value];
    control("order").value = listing.ordered(data, state);
    scatter?.draw(state);
  }

  /* The address holds the state, so that it can be sent, and Back finds it; how far the list had grown is the tab's. */
  function remember() {
    const of = listing.write(state);
    try {
      history.replaceState({ shown }, "", of ? `#${of}` : location.pathname.split("/").pop());
    } catch {
      // Some browsers let no page from disk change its address.
    }
  }

  function ask(asked) {
    state = asked;
    draw();
    remember();
  }

  function restore() {
    state = listing.read(location.hash.slice(1), data);
    spread();
    draw(Math.max(SLICE, history.state?.shown ?? 0));
  }

  build();
  const select = (change) => {
    state = { ...state, ...change };
    draw();
    remember();
  };
  const scatter = data.map && window.finerRayScatter(data, { address, change: select });
  form.addEventListener("input", () => ask(collect()));
  form.addEventListener("submit", (event) => event.preventDefault());
  control("clear").addEventListener("click", () => {
    ask({ ...listing.empty(), tint: state.tint });
    spread();
    control("q").focus();
  });
  const further = () => {
    grow(shown + SLICE);
    remember();
  };
  control("further").addEventListener("click", further);
  new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && further(), { rootMargin: "600px" }).observe(
    control("further"),
  );
  window.addEventListener("hashchange", restore);
  // After Back the browser puts old values into the controls, or shows the page as it was left.
  window.addEventListener("pageshow", restore);
  restore();
})();
