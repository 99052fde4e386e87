/* Maps of one image, computed from what an export stores, as finer_ray.saliency.aggregation.contrast computes them.
   Sets `finerRay`: open(data) of finer_ray.report.site.map_data.map_data, and what the pages' scripts share. */
"use strict";

window.finerRay = (() => {
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

  /* Weights w_k of references with these logits: finer_ray.saliency.objective.reference_weights. */
  function referenceWeights(logits, weighting) {
    if (weighting === "equal") return logits.map(() => 1 / logits.length);
    const peak = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - peak));
    const total = powers.reduce((a, b) => a + b, 0);
    const shares = powers.map((power) => power / total);
    if (weighting === "probability_detached") return shares;
    const mean = shares.reduce((sum, share, i) => sum + share * logits[i], 0);
    return shares.map((share, i) => share * (1 + logits[i] - mean));
  }

  /* Where each pixel of a side lies between cells, whose centres are at offset + stride * cell. */
  function places(pixels, count, offset, stride) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const place = Math.min(Math.max(0, (pixel - offset) / stride), count - 1);
      const first = Math.floor(place);
      return { first, second: Math.min(first + 1, count - 1), share: place - first };
    });
  }

  function compact(value) {
    return value === 0 ? "0" : value.toPrecision(3);
  }

  /* The question that a map answers, in words. */
  function sentence(target, names, gamma, reverse) {
    const others = names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names[0];
    if (!names.length) {
      return reverse ? "No reference is chosen, so nothing can speak for one." : `What speaks for ${target}?`;
    }
    if (reverse) return gamma === 0 ? `What speaks for ${others}?` : `What makes it ${others} rather than ${target}?`;
    if (gamma === 0) return `What speaks for ${target}?`;
    if (gamma < 0) return `What do ${target} and ${others} have in common?`;
    return `What makes it ${target} rather than ${others}?`;
  }

  /* An image's maps: stored ones by name, and contrasts of its basis. */
  function open(data) {
    const [height, width] = data.size;
    const [rows, columns] = data.grid;
    const cells = rows * columns;
    const stored = Object.fromEntries(data.maps.map((map) => [map.name, values(map)]));
    const basis = data.basis && values(data.basis);
    const maps = basis && Array.from({ length: 1 + data.references.length }, (_, j) => basis.subarray(j * cells, (j + 1) * cells));
    /* Which references an image has; one that it lacks is NaN in every cell. */
    const present = maps ? data.references.map((_, k) => !Number.isNaN(maps[1 + k][0])) : [];
    const logits = data.references.map((reference) => reference.logit);
    const [offsets, strides] = data.centres;
    const down = places(height, rows, offsets[0], strides[0]);
    const across = places(width, columns, offsets[1], strides[1]);

    /* The Finer-Grad-CAM map on its own grid. */
    function contrast({ gamma, references, aggregation, reverse, weighting }) {
      const result = new Float32Array(cells);
      if (!references.length) {
        // Nothing to compare with: the baseline, or nothing that could speak against the target.
        if (!reverse) for (let i = 0; i < cells; i++) result[i] = Math.max(0, maps[0][i]);
        return result;
      }
      const [target, other] = reverse ? [-gamma, 1] : [1, -gamma];
      const weights = referenceWeights(references.map((k) => logits[k]), weighting);
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

    function upsampled(map) {
      // Along the rows of the grid first: each of them serves many rows of pixels.
      const wide = new Float64Array(rows * width);
      for (let x = 0; x < width; x++) {
        const { first, second, share } = across[x];
        for (let row = 0; row < rows; row++) {
          wide[row * width + x] = map[row * columns + first] * (1 - share) + map[row * columns + second] * share;
        }
      }
      const result = new Float32Array(height * width);
      for (let y = 0; y < height; y++) {
        const { first, second, share } = down[y];
        const [upper, lower, here] = [first * width, second * width, y * width];
        for (let x = 0; x < width; x++) result[here + x] = wide[upper + x] * (1 - share) + wide[lower + x] * share;
      }
      return result;
    }

    return { height, width, stored, basis: maps, present, contrast, upsampled };
  }

  return { open, referenceWeights, sentence, compact };
})();
