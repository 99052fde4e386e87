/* The image view: its controls, and what they draw. Adds `map` and `shown` to `finerRay`, for the scripts that follow
   and for tests; `drawn` is sent to the document after each drawing. */
"use strict";

(() => {
  const { open, referenceWeights, sentence, compact, palettes, paint, strip, peakOf } = window.finerRay;
  const data = JSON.parse(document.getElementById("data").textContent);
  const image = open(data);
  const known = data.references.map((_, k) => k).filter((k) => image.present[k]);
  const control = (name) => document.getElementById(name);
  const minus = (text) => String(text).replace("-", "−");
  const bare = !data.photo;

  /* A function that keeps its last answer: moving gamma leaves the stored map and the baseline as they are. */
  function keeping(compute) {
    let [key, answer] = [];
    return (asked) => {
      const now = JSON.stringify(asked);
      if (now !== key) [key, answer] = [now, compute(asked)];
      return answer;
    };
  }
  const contrast = () => keeping((asked) => image.upsampled(image.contrast(asked)));
  const maps = {
    stored: keeping((name) => image.upsampled(image.stored[name])),
    baseline: contrast(),
    live: contrast(),
    beside: contrast(),
  };

  /* What is asked of the live map, or of the second one, which has a gamma and references of its own. */
  function settings(gamma, reference) {
    return {
      gamma: Number(control(gamma).value),
      references: known.filter((k) => control(`${reference}-${k}`)?.checked),
      aggregation: control("aggregation").value,
      weighting: control("weighting").value,
      reverse: control("reverse").checked,
    };
  }

  function comparison(kind, asked) {
    const names = asked.references.map((k) => data.references[k].name);
    return {
      kind,
      asked,
      map: maps[kind](asked),
      comparable: true,
      title: `Finer-CAM, γ ${minus(asked.gamma.toFixed(2))}`,
      question: sentence(data.target, names, asked.gamma, asked.reverse),
    };
  }

  function difference(live, baseline) {
    return {
      kind: "beside",
      map: live.map.map((value, i) => value - baseline[i]),
      signed: true,
      title: "Difference to the baseline",
    };
  }

  function stored(name) {
    const { comparable } = data.maps.find((map) => map.name === name);
    return { kind: "beside", map: maps.stored(name), comparable, title: name };
  }

  /* The maps as they are shown now, each with the value that has the last colour. */
  function panels() {
    const chosen = control("beside").value;
    if (!image.basis) return scaled([stored(chosen.slice("stored:".length))]);
    const live = comparison("live", settings("gamma", "reference"));
    const baseline = maps.baseline({ ...live.asked, gamma: 0 });
    const beside =
      chosen === "difference" ? difference(live, baseline)
      : chosen === "second" ? comparison("beside", settings("gamma-2", "second"))
      : stored(chosen.slice("stored:".length));
    return scaled([live, beside], peakOf(baseline));
  }

  /* One scale for what has one unit: sums of Grad-CAM's weights times activations. It reaches to the baseline's maximum
     at least, so that it stays while gamma moves. */
  function scaled(found, least = 0) {
    for (const panel of found) panel.peak = panel.signed ? Math.max(peakOf(panel.map), peakOf(panel.map.map((value) => -value))) : peakOf(panel.map);
    const together = control("scale")?.value === "shared" ? found.filter((panel) => panel.comparable) : [];
    const end = Math.max(least, ...together.map((panel) => panel.peak));
    for (const panel of found) panel.end = together.includes(panel) ? end : panel.peak;
    return found;
  }

  const painted = {};
  function draw(panel) {
    const part = (name) => control(`${panel.kind}-${name}`);
    const { signed, peak, end } = panel;
    const options = {
      peak: end,
      signed,
      colours: palettes[signed ? "diverging" : control("colours").value],
      // Without a photo there is nothing to keep the colours of.
      mode: bare && control("mode").value !== "contours" ? "full" : control("mode").value,
      strength: bare ? 1 : Number(control("opacity").value),
    };
    const last = painted[panel.kind];
    // A stored map under the same options is as it was.
    if (last?.map !== panel.map || Object.keys(options).some((name) => options[name] !== last.options[name])) {
      paint(part("map"), panel.map, options);
      strip(part("scale"), options);
      part("scale").dataset.mode = options.mode;
      painted[panel.kind] = { map: panel.map, options };
    }
    panel.low = signed ? `${minus(compact(-end))} less` : "0";
    panel.high = signed ? `${compact(end)} more` : compact(end);
    panel.note = peak > 0 ? `maximum ${compact(peak)}` : "zero everywhere";
    if (peak > 0 && peak < end / 4) panel.note += `, ${Math.round((100 * peak) / end)} % of the scale`;
    if (signed) panel.note = peak > 0 ? `γ ${control("gamma-value").textContent} minus γ 0` : "no difference";
    part("low").textContent = panel.low;
    part("high").textContent = panel.high;
    part("title").textContent = panel.title;
    part("note").textContent = panel.note;
    part("map").setAttribute("aria-label", `${panel.title} over the photo. ${panel.question ?? ""}`);
    part("scale").setAttribute("aria-label", `Colours of ${panel.title}, from ${panel.low} to ${panel.high}`);
  }

  let shown = [];
  function drawMaps() {
    shown = panels();
    if (image.basis) {
      const [live, beside] = shown;
      control("beside-question").textContent = beside.question ?? "";
      control("beside-question").hidden = !beside.question;
      document.querySelector(".panels").classList.toggle("even", Boolean(beside.question || beside.signed));
      control("scale-hint").textContent = hint(beside);
      sayLive(live);
      if (control("second")) sayOther();
    }
    shown.forEach(draw);
  }

  function hint(beside) {
    if (control("scale").value === "own") return "Colours of two maps cannot be held against each other.";
    const reach = "From 0 to the largest value of the maps shown and of the baseline.";
    if (beside.signed) return `${reach} The difference has a scale of its own.`;
    return beside.comparable ? reach : `${reach} ${beside.title} has another unit, so its scale is its own.`;
  }

  function sayLive({ asked, question }) {
    control("gamma-value").textContent = minus(asked.gamma.toFixed(2));
    control("question").textContent = question;
    const logits = asked.references.map((k) => data.references[k].logit);
    const weights = referenceWeights(logits, asked.weighting);
    data.references.forEach((_, k) => {
      const cell = control(`weight-${k}`);
      const place = asked.references.indexOf(k);
      const counted = place >= 0 && asked.aggregation !== "max_before_relu";
      if (cell) cell.textContent = counted ? minus(weights[place].toFixed(2)) : "–";
    });
    control("weighting").disabled = asked.aggregation === "max_before_relu";
  }

  function sayOther() {
    control("second").hidden = control("beside").value !== "second";
    control("gamma-2-value").textContent = minus(Number(control("gamma-2").value).toFixed(2));
  }

  /* The settings in words: on printed pages and saved figures, where there are no controls. */
  function sayState() {
    const words = (name) => control(name).selectedOptions[0].textContent;
    const parts = [];
    if (image.basis) {
      const { gamma, references, aggregation, weighting, reverse } = shown[0].asked;
      const names = references.map((k) => data.references[k].name).join(", ") || "nothing";
      parts.push(`γ ${minus(gamma.toFixed(2))} against ${names}`, aggregation);
      if (aggregation !== "max_before_relu") parts.push(`weights: ${weighting}`);
      if (reverse) parts.push("reversed");
    }
    parts.push(`display: ${words("mode")}`, `strength ${control("opacity-value").textContent}`, words("colours"));
    if (image.basis) parts.push(`colour scale: ${words("scale")}`);
    const state = control("state");
    parts.push(`${state.dataset.key}, row ${state.dataset.row}`);
    state.textContent = parts.join(" · ");
  }

  function drawRest() {
    control("opacity-value").textContent = `${Math.round(100 * Number(control("opacity").value))} %`;
    const region = control("region");
    document.querySelectorAll(".outline").forEach((outline) => (outline.hidden = !region.checked));
  }

  /* Settings go into the address, so that the next image keeps them and a link shows what is seen. */
  const kept = [...document.querySelectorAll("[data-kept]")];
  function state() {
    const found = new URLSearchParams();
    for (const element of kept) {
      const value = element.type === "checkbox" ? String(element.checked) : element.value;
      if (value !== element.dataset.kept) found.set(element.id, value);
    }
    return found.toString();
  }

  function restore() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const element of kept) {
      const value = given.get(element.id) ?? element.dataset.kept;
      if (element.type === "checkbox") element.checked = value === "true";
      else element.value = value;
      if (element.tagName === "SELECT" && element.selectedIndex < 0) element.value = element.dataset.kept;
    }
  }

  function remember() {
    const found = state();
    document.querySelectorAll("a[data-follow]").forEach((link) => (link.hash = found));
    try {
      history.replaceState(null, "", found ? `#${found}` : location.pathname.split("/").pop() + location.search);
    } catch {
      // Some browsers let no page from disk change its address; the links above still carry the settings.
    }
  }

  function redraw() {
    drawMaps();
    drawRest();
    sayState();
    remember();
    document.dispatchEvent(new Event("drawn"));
  }

  Object.assign(window.finerRay, { data, map: () => shown.find((panel) => panel.kind === "live").map, shown: () => shown });
  restore();
  document.querySelector(".controls").addEventListener("input", redraw);
  document.querySelectorAll("[data-gamma]").forEach((button) =>
    button.addEventListener("click", () => {
      control("gamma").value = button.dataset.gamma;
      redraw();
    }),
  );
  control("reset").addEventListener("click", () => {
    for (const element of kept) {
      if (element.type === "checkbox") element.checked = element.dataset.kept === "true";
      else element.value = element.dataset.kept;
    }
    redraw();
  });
  window.addEventListener("hashchange", () => {
    restore();
    redraw();
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    if (event.target.closest("input, select, button, textarea, .scroll, .stack")) return;
    const way = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
    if (way) document.getElementById(way)?.click();
  });
  redraw();
})();
