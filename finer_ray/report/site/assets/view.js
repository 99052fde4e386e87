/* The image view: maps drawn from the stored contrast basis, as finer_ray.saliency.aggregation.contrast computes them. */
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [height, width] = data.size;
  const [rows, columns] = data.grid;
  const cells = rows * columns;
  const control = (name) => document.getElementById(name);
  const palettes = Object.fromEntries(
    Object.entries(window.finerRayColours).map(([name, hex]) => [name, palette(hex)]),
  );

  /* 256 colours as the 32-bit words of a canvas's pixels. */
  function palette(hex) {
    const bytes = new Uint8ClampedArray(4 * 256);
    for (let level = 0; level < 256; level++) {
      for (let channel = 0; channel < 3; channel++) {
        const place = 6 * level + 2 * channel;
        bytes[4 * level + channel] = parseInt(hex.slice(place, place + 2), 16);
      }
      bytes[4 * level + 3] = 255;
    }
    return new Uint32Array(bytes.buffer);
  }

  /* Stored float16 values times their scale, rounded to float32 as numpy does. */
  function values(stored) {
    const text = atob(stored.values);
    const result = new Float32Array(text.length / 2);
    for (let place = 0; place < result.length; place++) {
      const half = text.charCodeAt(2 * place) | (text.charCodeAt(2 * place + 1) << 8);
      result[place] = fromHalf(half) * stored.scale;
    }
    return result;
  }

  function fromHalf(half) {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const sign = half & 0x8000 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
  }

  const stored = Object.fromEntries(data.maps.map((map) => [map.name, values(map)]));
  const basis = data.basis && values(data.basis);
  const maps = basis && Array.from({ length: 1 + data.references.length }, (_, j) => basis.subarray(j * cells, (j + 1) * cells));

  /* Which references an image has; one that it lacks is NaN in every cell. */
  const present = maps ? data.references.map((_, k) => !Number.isNaN(maps[1 + k][0])) : [];

  /* Weights w_k of some references: finer_ray.saliency.objective.reference_weights. */
  function referenceWeights(chosen, weighting) {
    if (weighting === "equal") return chosen.map(() => 1 / chosen.length);
    const logits = chosen.map((k) => data.references[k].logit);
    const peak = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - peak));
    const total = powers.reduce((a, b) => a + b, 0);
    const shares = powers.map((power) => power / total);
    if (weighting === "probability_detached") return shares;
    const mean = shares.reduce((sum, share, i) => sum + share * logits[i], 0);
    return shares.map((share, i) => share * (1 + logits[i] - mean));
  }

  /* The Finer-Grad-CAM map on its own grid. */
  function contrast({ gamma, references, aggregation, reverse, weighting }) {
    const result = new Float32Array(cells);
    if (!references.length) {
      // Nothing to compare with: the baseline, or nothing that could speak against the target.
      if (!reverse) for (let i = 0; i < cells; i++) result[i] = Math.max(0, maps[0][i]);
      return result;
    }
    const [target, other] = reverse ? [-gamma, 1] : [1, -gamma];
    const weights = referenceWeights(references, weighting);
    for (let i = 0; i < cells; i++) {
      const base = target * maps[0][i];
      let sum = aggregation === "max_before_relu" ? -Infinity : 0;
      references.forEach((k, place) => {
        const value = other * maps[1 + k][i];
        if (aggregation === "mean_before_relu") sum += weights[place] * value;
        else if (aggregation === "max_before_relu") sum = Math.max(sum, base + value);
        else sum += weights[place] * Math.max(0, base + value);
      });
      result[i] = Math.max(0, aggregation === "mean_before_relu" ? base + sum : sum);
    }
    return result;
  }

  /* Where each pixel of a side lies between cells, whose centres are at offset + stride * cell. */
  function places(pixels, count, offset, stride) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const place = Math.min(Math.max(0, (pixel - offset) / stride), count - 1);
      const first = Math.floor(place);
      return { first, second: Math.min(first + 1, count - 1), share: place - first };
    });
  }
  const [offsets, strides] = data.centres;
  const down = places(height, rows, offsets[0], strides[0]);
  const across = places(width, columns, offsets[1], strides[1]);

  function upsampled(map) {
    const result = new Float32Array(height * width);
    for (let y = 0; y < height; y++) {
      const { first, second, share } = down[y];
      for (let x = 0; x < width; x++) {
        const { first: left, second: right, share: part } = across[x];
        const upper = map[first * columns + left] * (1 - part) + map[first * columns + right] * part;
        const lower = map[second * columns + left] * (1 - part) + map[second * columns + right] * part;
        result[y * width + x] = upper * (1 - share) + lower * share;
      }
    }
    return result;
  }

  /* Colours of a map from 0 to its own maximum; overlay opacity is the canvas's own, so that its pixels stay exact. */
  function paint(canvas, map, colours) {
    const peak = map.reduce((a, b) => Math.max(a, b), 0);
    // Pixels are set one by one, and may be read: a canvas in the processor's memory, not the graphics card's.
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < map.length; i++) {
      words[i] = colours[peak > 0 ? Math.min(255, Math.floor((256 * map[i]) / peak)) : 0];
    }
    context.putImageData(image, 0, 0);
    return peak;
  }

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

  function compact(value) {
    return value === 0 ? "0" : value.toPrecision(3);
  }

  function drawStored() {
    const chosen = control("stored").value;
    const peak = paint(control("stored-map"), upsampled(stored[chosen]), palettes[control("colours").value]);
    control("stored-peak").textContent = `maximum ${compact(peak)}`;
    control("stored-map").setAttribute("aria-label", `Stored map ${chosen} over the photo`);
  }

  let current = null;
  function drawLive() {
    if (!basis) return;
    const asked = settings();
    current = upsampled(contrast(asked));
    const peak = paint(control("live-map"), current, palettes[control("colours").value]);
    control("gamma-value").textContent = asked.gamma.toFixed(2).replace("-", "−");
    control("live-peak").textContent = peak > 0 ? `maximum ${compact(peak)}` : "zero everywhere";
    const names = asked.references.map((k) => data.references[k].name);
    const gamma = String(asked.gamma).replace("-", "−");
    const question = sentence(names, asked.gamma, asked.reverse);
    control("question").textContent = question;
    control("live-map").setAttribute("aria-label", `${question} Gamma ${gamma}, ${asked.aggregation}.`);
    const weights = referenceWeights(asked.references, asked.weighting);
    data.references.forEach((_, k) => {
      const cell = control(`weight-${k}`);
      const place = asked.references.indexOf(k);
      const counted = place >= 0 && asked.aggregation !== "max_before_relu";
      if (cell) cell.textContent = counted ? weights[place].toFixed(2).replace("-", "−") : "–";
    });
    control("weighting").disabled = asked.aggregation === "max_before_relu";
    window.finerRay = { map: () => current, size: [height, width], settings: asked, peak };
  }

  function sentence(names, gamma, reverse) {
    const others = names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names[0];
    if (!names.length) {
      return reverse ? "No reference is chosen, so nothing can speak for one." : `What speaks for ${data.target}?`;
    }
    if (reverse) return gamma === 0 ? `What speaks for ${others}?` : `What makes it ${others} rather than ${data.target}?`;
    if (gamma === 0) return `What speaks for ${data.target}?`;
    if (gamma < 0) return `What do ${data.target} and ${others} have in common?`;
    return `What makes it ${data.target} rather than ${others}?`;
  }

  function blend() {
    const share = Number(control("opacity").value);
    document.querySelectorAll(".stack canvas").forEach((canvas) => (canvas.style.opacity = share));
    control("opacity-value").textContent = `${Math.round(100 * share)} %`;
    const scale = control("scale");
    const context = scale.getContext("2d");
    const image = context.createImageData(256, 1);
    new Uint32Array(image.data.buffer).set(palettes[control("colours").value]);
    context.putImageData(image, 0, 0);
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
      history.replaceState(null, "", found ? `#${found}` : location.pathname.split("/").pop());
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
