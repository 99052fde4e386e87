/* The image view: its controls, and what they draw. */
"use strict";

(() => {
  const { open, referenceWeights, sentence, compact, palettes, paint, peakOf } = window.finerRay;
  const data = JSON.parse(document.getElementById("data").textContent);
  const image = open(data);
  const { height, width, present } = image;
  const logits = data.references.map((reference) => reference.logit);
  const control = (name) => document.getElementById(name);

  function settings() {
    const known = data.references.map((_, k) => k).filter((k) => present[k]);
    return {
      gamma: Number(control("gamma").value),
      references: known.filter((k) => control(`reference-${k}`)?.checked),
      aggregation: control("aggregation").value,
      weighting: control("weighting").value,
      reverse: control("reverse").checked,
    };
  }

  function drawStored() {
    const chosen = control("stored").value;
    const map = image.upsampled(image.stored[chosen]);
    const peak = peakOf(map);
    paint(control("stored-map"), map, peak, palettes[control("colours").value]);
    control("stored-peak").textContent = `maximum ${compact(peak)}`;
    control("stored-map").setAttribute("aria-label", `Stored map ${chosen} over the photo`);
  }

  let current = null;
  function drawLive() {
    if (!image.basis) return;
    const asked = settings();
    current = image.upsampled(image.contrast(asked));
    const peak = peakOf(current);
    paint(control("live-map"), current, peak, palettes[control("colours").value]);
    control("gamma-value").textContent = asked.gamma.toFixed(2).replace("-", "−");
    control("live-peak").textContent = peak > 0 ? `maximum ${compact(peak)}` : "zero everywhere";
    const names = asked.references.map((k) => data.references[k].name);
    const gamma = String(asked.gamma).replace("-", "−");
    const question = sentence(data.target, names, asked.gamma, asked.reverse);
    control("question").textContent = question;
    control("live-map").setAttribute("aria-label", `${question} Gamma ${gamma}, ${asked.aggregation}.`);
    const weights = referenceWeights(asked.references.map((k) => logits[k]), asked.weighting);
    data.references.forEach((_, k) => {
      const cell = control(`weight-${k}`);
      const place = asked.references.indexOf(k);
      const counted = place >= 0 && asked.aggregation !== "max_before_relu";
      if (cell) cell.textContent = counted ? weights[place].toFixed(2).replace("-", "−") : "–";
    });
    control("weighting").disabled = asked.aggregation === "max_before_relu";
    Object.assign(window.finerRay, { map: () => current, settings: asked, peak });
  }

  function blend() {
    const share = Number(control("opacity").value);
    document.querySelectorAll(".stack canvas").forEach((canvas) => (canvas.style.opacity = share));
    control("opacity-value").textContent = `${Math.round(100 * share)} %`;
    const scale = control("scale");
    const context = scale.getContext("2d");
    const line = context.createImageData(256, 1);
    new Uint32Array(line.data.buffer).set(palettes[control("colours").value]);
    context.putImageData(line, 0, 0);
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
    drawStored();
    drawLive();
    blend();
    remember();
  }

  for (const canvas of document.querySelectorAll(".stack canvas")) {
    canvas.width = width;
    canvas.height = height;
  }
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
    if (event.target.closest("input, select, button, textarea, .scroll")) return;
    const way = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
    if (way) document.getElementById(way)?.click();
  });
  redraw();
})();
