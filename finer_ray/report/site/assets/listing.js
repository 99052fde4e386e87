/* Which image pages are asked for, and in which order: by what the address says, over `finerRayImages` of
   finer_ray.report.site.image_list. Sets `finerRayListing`. It draws nothing.

   A state is {q, sort, order, tint, box, is, min, max}: words that the names or the key hold; a field's name, `key` or
   nothing for the order of rows; `up`, `down` or nothing for the field's own way; the field that colours the map;
   [x1, y1, x2, y2] of the map; and by field the chosen value, the smallest and the largest, as texts. In an address it
   is a query string. */
"use strict";

window.finerRayListing = (() => {
  const PLAIN = ["q", "sort", "order", "tint"];
  const BOUNDS = ["is", "min", "max"];
  const empty = () => ({ q: "", sort: "", order: "", tint: "", box: null, is: {}, min: {}, max: {} });

  function read(text, data) {
    const given = new URLSearchParams(text);
    const state = empty();
    for (const name of PLAIN) state[name] = given.get(name) ?? "";
    const box = (given.get("box") ?? "").split(",").map(Number);
    if (data.map && box.length === 4 && box.every(Number.isFinite)) state.box = box;
    for (const field of data.fields) {
      for (const bound of BOUNDS) {
        const value = given.get(`${bound}.${field.name}`);
        if (value && (bound === "is" || Number.isFinite(Number(value)))) state[bound][field.name] = value;
      }
    }
    if (state.sort !== "key" && !data.fields.some((field) => field.name === state.sort)) state.sort = "";
    return state;
  }

  function write(state) {
    const found = new URLSearchParams();
    for (const name of PLAIN) if (state[name]) found.set(name, state[name]);
    if (state.box) found.set("box", state.box.join(","));
    for (const bound of BOUNDS) {
      for (const [name, value] of Object.entries(state[bound])) if (value !== "") found.set(`${bound}.${name}`, value);
    }
    return found.toString();
  }

  const texts = new WeakMap();
  /* What a search looks at, in small letters. */
  function textsOf(data) {
    if (!texts.has(data)) {
      const numbers = [data.label, data.predicted, data.target];
      const text = (key, place) => [key, ...numbers.map((column) => data.names[column[place]] ?? "")].join("\n").toLowerCase();
      texts.set(data, data.keys.map(text));
    }
    return texts.get(data);
  }

  /* A test of places for each thing that a state asks. */
  function tests(data, state, whole = true) {
    const found = [];
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length) {
      const known = textsOf(data);
      found.push((place) => words.every((word) => known[place].includes(word)));
    }
    for (const { name, kind, keys, values } of data.fields) {
      const wanted = state.is[name];
      if (wanted !== undefined && kind === "choice") {
        const option = keys.indexOf(wanted);
        found.push((place) => values[place] === option);
      } else if (wanted !== undefined && kind === "text") {
        const part = wanted.toLowerCase();
        found.push((place) => values[place] !== null && values[place].toLowerCase().includes(part));
      }
      if (kind !== "number") continue;
      const [low, high] = [state.min[name], state.max[name]].map(Number);
      if (!Number.isNaN(low)) found.push((place) => values[place] !== null && values[place] >= low);
      if (!Number.isNaN(high)) found.push((place) => values[place] !== null && values[place] <= high);
    }
    if (whole && state.box) {
      const [left, top, right, bottom] = state.box;
      found.push((place) => {
        const [x, y] = data.map[place];
        return x !== null && x >= left && x <= right && y >= top && y <= bottom;
      });
    }
    return found;
  }

  /* Whether each place is asked for; `whole` false leaves out the box on the map. */
  function fits(data, state, whole = true) {
    const asked = tests(data, state, whole);
    return data.rows.map((_, place) => asked.every((test) => test(place)));
  }

  /* The way that a state sorts: as it says, or the best, the surest, the closest first. */
  function ordered(data, state) {
    if (state.order === "up" || state.order === "down") return state.order;
    const field = data.fields.find(({ name }) => name === state.sort);
    return field?.best === "high" || state.sort === "confidence" ? "down" : "up";
  }

  /* Places in the list that are asked for, in order; what has no value comes last, and equals by row. */
  function places(data, state) {
    const fitting = fits(data, state);
    const found = data.rows.map((_, place) => place).filter((place) => fitting[place]);
    const field = data.fields.find(({ name }) => name === state.sort);
    const sign = ordered(data, state) === "up" ? 1 : -1;
    if (!field && state.sort !== "key") return sign > 0 ? found : found.reverse();
    const values = sizes(field, data);
    return found.sort((a, b) => {
      const [one, other] = [values[a], values[b]];
      if (one === null || other === null) return (one === null) - (other === null) || a - b;
      return sign * (one - other) || a - b;
    });
  }

  /* Numbers by which a field sorts; without one, keys. */
  function sizes(field, data) {
    if (field?.kind === "number") return field.values;
    if (field?.kind !== "choice") return rank(field?.values ?? data.keys);
    const order = rank(field.options);
    return field.values.map((place) => (place === null ? null : order[place]));
  }

  const ranks = new WeakMap();
  /* For each text its place in order, in which numbers stand by their size; null for null. */
  function rank(texts) {
    if (!ranks.has(texts)) {
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      const kept = [...new Set(texts)].filter((text) => text !== null).sort(compare);
      const order = new Map(kept.map((text, number) => [text, number]));
      ranks.set(texts, texts.map((text) => order.get(text) ?? null));
    }
    return ranks.get(texts);
  }

  /* What a state asks, in words; nothing where that is all images by row. */
  function words(data, state) {
    const found = state.q ? [`“${state.q}”`] : [];
    for (const { name, title, kind, keys, options } of data.fields) {
      const wanted = state.is[name];
      if (wanted !== undefined) found.push(`${title} ${kind === "choice" ? (options[keys.indexOf(wanted)] ?? wanted) : `“${wanted}”`}`);
      if (state.min[name] !== undefined) found.push(`${title} ≥ ${state.min[name]}`);
      if (state.max[name] !== undefined) found.push(`${title} ≤ ${state.max[name]}`);
    }
    if (state.box) found.push("selected on the map");
    const by = sortWords(data, state);
    if (by) found.push(by);
    return found.join(", ");
  }

  function sortWords(data, state) {
    if (!state.sort && ordered(data, state) === "up") return "";
    const title = data.fields.find(({ name }) => name === state.sort)?.title ?? (state.sort || "row");
    return `by ${title}, ${orderWords(data, state)[ordered(data, state)]}`;
  }

  /* What `up` and `down` mean for the field that a state sorts by. */
  function orderWords(data, state) {
    const field = data.fields.find(({ name }) => name === state.sort);
    if (field?.best) return field.best === "low" ? { up: "best first", down: "worst first" } : { up: "worst first", down: "best first" };
    if (field?.kind === "number") return { up: "lowest first", down: "highest first" };
    return state.sort ? { up: "A to Z", down: "Z to A" } : { up: "first to last", down: "last to first" };
  }

  return { empty, read, write, fits, places, ordered, orderWords, words };
})();
