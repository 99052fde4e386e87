/* The pair page: one gamma that redraws all of its maps. */
"use strict";

(() => {
  const { open, sentence, compact, palettes, paint, peakOf } = window.finerRay;
  const data = JSON.parse(document.getElementById("data").textContent);
  const colours = Object.values(palettes)[0];
  const control = (name) => document.getElementById(name);
  const slider = control("gamma");

  /* Each map once, with the canvases that show it: an image may stand in several lists. */
  function drawn(entries, attribute) {
    return Object.entries(entries).map(([key, entry]) => ({
      key,
      entry,
      image: open(entry),
      canvases: [...document.querySelectorAll(`canvas[${attribute}="${key}"]`)],
    }));
  }
  const images = drawn(data.images, "data-row");
  const means = drawn(data.means, "data-mean");
  const asked = { references: [0], aggregation: "mean_before_relu", reverse: false, weighting: "equal" };

  /* Maps of a group have one scale, so that more light is more evidence. */
  function drawGroup(group, gamma, mode) {
    for (const one of group) one.map = one.image.upsampled(one.image.contrast({ ...asked, gamma }));
    const peak = Math.max(...group.map((one) => peakOf(one.map)), 0);
    for (const { canvases, map } of group) for (const canvas of canvases) paint(canvas, map, { peak, colours, mode });
    return peak;
  }

  function draw() {
    const gamma = Number(slider.value);
    const peak = drawGroup(images, gamma, "heat");
    drawGroup(means, gamma, "full");
    control("gamma-value").textContent = gamma.toFixed(2).replace("-", "−");
    const { target, references } = images[0].entry;
    const both = gamma < 0 ? sentence(target, [references[0].name], gamma, false) : gamma === 0 ? "What speaks for each class alone?" : "What speaks for each class and against the other?";
    control("meaning").textContent = peak > 0 ? `${both} Brightest: ${compact(peak)}.` : `${both} Nothing does.`;
    Object.assign(window.finerRay, { gamma, peak, maps: { images, means } });
  }

  function remember() {
    const found = slider.value === slider.dataset.kept ? "" : `gamma=${slider.value}`;
    try {
      history.replaceState(null, "", found ? `#${found}` : location.pathname.split("/").pop());
    } catch {
      // Some browsers let no page from disk change its address.
    }
  }

  function restore() {
    slider.value = new URLSearchParams(location.hash.slice(1)).get("gamma") ?? slider.dataset.kept;
  }

  /* Events may come faster than frames; the last one before a frame is drawn. */
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
      remember();
    });
  }

  restore();
  draw();
  slider.addEventListener("input", redraw);
  document.querySelectorAll("button[data-gamma]").forEach((button) =>
    button.addEventListener("click", () => {
      slider.value = button.dataset.gamma;
      redraw();
    }),
  );
  window.addEventListener("hashchange", () => {
    restore();
    draw();
  });
})();
