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
  function computed(group, gamma) {
    for (const one of group) {
      one.map = one.image.contrast({ ...asked, gamma });
      one.fresh = false;
    }
    return Math.max(...group.map((one) => peakOf(one.map)), 0);
  }

  function inSight(canvas) {
    const { top, bottom } = canvas.getBoundingClientRect();
    return bottom > 0 && top < window.innerHeight;
  }

  /* A mean has no photo below it. */
  function painted(group, options, all) {
    for (const one of group) {
      if (one.fresh || !(all || one.canvases.some(inSight))) continue;
      const map = one.image.upsampled(one.map);
      for (const canvas of one.canvases) paint(canvas, map, { colours, ...options });
      one.fresh = true;
    }
  }

  /* What is in sight at once; the others when the slider rests. */
  let later = 0;
  function show(gamma) {
    const peaks = [computed(images, gamma), computed(means, gamma)];
    const paintGroups = (all) => {
      painted(images, { peak: peaks[0], mode: "heat" }, all);
      painted(means, { peak: peaks[1], mode: "full", strength: 1 }, all);
    };
    paintGroups(false);
    clearTimeout(later);
    later = setTimeout(paintGroups, 80, true);
    return peaks[0];
  }

  function draw() {
    const gamma = Number(slider.value);
    const peak = show(gamma);
    control("gamma-value").textContent = gamma.toFixed(2).replace("-", "−");
    const { target, references } = images[0].entry;
    const both = gamma < 0 ? sentence(target, [references[0].name], gamma, false) : gamma === 0 ? "What speaks for each class alone?" : "What speaks for each class and against the other?";
    control("meaning").textContent = peak > 0 ? `${both} Brightest: ${compact(peak)}.` : `${both} Nothing does.`;
    Object.assign(window.finerRay, { peak, shown: { images, means } });
  }

  function remember() {
    const found = Number(slider.value) === Number(slider.dataset.kept) ? "" : `gamma=${slider.value}`;
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
