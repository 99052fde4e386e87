/* Maps over photos, by the formula of finer_ray/report/overlay.py. Adds `palettes`, `paint`, `strip` and `peakOf` to
   `finerRay`. */
"use strict";

(() => {
  /* First colour of `heat`; grey of `hot`; 1 / REACH of the peak is as hot as can be: as in overlay.py. */
  const [FIRST, DARK, REACH] = [77, 26, 1.6];
  /* Contours: shares of the peak, and places of their colours in the colour map. */
  const LINES = [[0.25, 115], [0.5, 180], [0.75, 245]];
  const EDGE = "rgb(0 0 0 / 65%)";
  /* Pixels along the longer side of a canvas with contours. */
  const FINE = 640;

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

  const palettes = Object.fromEntries(
    Object.entries(window.finerRayColours).map(([name, hex]) => [name, palette(hex)]),
  );

  /* The layer's colour and opacity at each level. Of a signed map 128 is zero, and a spotlight would hide the sign. */
  function layerTable({ colours, mode = "heat", strength = 0.65, signed = false }) {
    const table = new Uint32Array(256);
    const hot = mode === "hot" && !signed;
    for (let level = 0; level < 256; level++) {
      const height = signed ? Math.min(1, Math.abs(level - 128) / 127) : level / 255;
      const share = Math.min(1, REACH * height);
      const alpha = hot ? 1 - share : mode === "full" ? 1 : share;
      const kept = signed ? fromMiddle(Math.sign(level - 128), height) : FIRST + Math.floor(((255 - FIRST) * level) / 255);
      const colour = hot ? DARK * 0x010101 : colours[mode === "full" ? level : kept] & 0xffffff;
      table[level] = (Math.floor(255 * strength * alpha + 0.5) << 24) | colour;
    }
    return table;
  }

  /* Place of a signed colour: those in the middle are nearly white, and would only pale the photo. */
  const fromMiddle = (sign, share) => Math.round(127.5 + sign * (40 + 87 * share));

  /* A map on a canvas over its photo.
     canvas: of the map's size, or as an earlier call left it. map: height * width values.
     peak: value with the last colour; of a signed map also, negated, with the first. colours: one of `palettes`.
     mode: heat, hot, contours or full. strength: opacity where the layer is most opaque. */
  function paint(canvas, map, options) {
    const times = Math.sqrt((canvas.width * canvas.height) / map.length);
    const [width, height] = [Math.round(canvas.width / times), Math.round(canvas.height / times)];
    if (options.mode === "contours") contours(canvas, map, width, height, options);
    else fill(canvas, map, width, height, options);
  }

  function fill(canvas, map, width, height, { peak, signed = false, ...options }) {
    if (canvas.width !== width) [canvas.width, canvas.height] = [width, height];
    // Pixels are set one by one, and may be read: a canvas in the processor's memory, not the graphics card's.
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    const table = layerTable({ ...options, signed });
    const [zero, scale] = [signed ? 128 : 0, peak > 0 ? (signed ? 128 : 256) / peak : 0];
    for (let i = 0; i < map.length; i++) {
      words[i] = table[Math.max(0, Math.min(255, Math.floor(zero + scale * map[i])))];
    }
    context.putImageData(image, 0, 0);
  }

  function contours(canvas, map, width, height, { peak, colours, signed = false, strength = 0.65 }) {
    const times = Math.max(1, Math.round(FINE / Math.max(width, height)));
    [canvas.width, canvas.height] = [times * width, times * height];
    if (!(peak > 0)) return;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.globalAlpha = Math.min(1, 0.25 + strength);
    context.lineCap = "round";
    const thin = Math.max(canvas.width, canvas.height) / 340;
    const found = lines(signed).map(([share, place]) => [isoline(map, width, height, share * peak, times), colours[place]]);
    const edge = new Path2D();
    for (const [path] of found) edge.addPath(path);
    for (const [path, line, colour] of [[edge, 2.2 * thin, EDGE], ...found.map(([path, word]) => [path, thin, css(word)])]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.stroke(path);
    }
  }

  const css = (word) => `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;

  /* Shares of the peak and places in the colour map of each line. */
  function lines(signed) {
    if (!signed) return LINES;
    return [-0.75, -0.5, -0.25, 0.25, 0.5, 0.75].map((share) => [share, fromMiddle(Math.sign(share), 0.6 * Math.abs(share))]);
  }

  /* Where a map has a value, by marching squares over its pixels' centres. */
  function isoline(map, width, height, value, times) {
    const path = new Path2D();
    const step = Math.max(1, Math.round(width / 112));
    for (let y = 0; y + step < height; y += step) {
      for (let x = 0; x + step < width; x += step) {
        const at = y * width + x;
        const [a, b, c, d] = [map[at], map[at + step], map[at + step * width + step], map[at + step * width]];
        const above = a >= value;
        if (above === b >= value && above === c >= value && above === d >= value) continue;
        const corners = [a, b, c, d];
        // Sides that the line crosses, in the order around the square; two, or four at a saddle.
        const points = [];
        for (let side = 0; side < 4; side++) {
          const [from, to] = [corners[side], corners[(side + 1) % 4]];
          if (from >= value === to >= value) continue;
          const part = (value - from) / (to - from);
          points.push([
            x + 0.5 + step * [part, 1, 1 - part, 0][side],
            y + 0.5 + step * [0, part, 1, 1 - part][side],
          ]);
        }
        for (let place = 0; place + 1 < points.length; place += 2) {
          path.moveTo(times * points[place][0], times * points[place][1]);
          path.lineTo(times * points[place + 1][0], times * points[place + 1][1]);
        }
      }
    }
    return path;
  }

  /* The legend of `paint`, from its first to its last colour, on a canvas of 256 x 1 pixels. */
  function strip(canvas, options) {
    const image = new ImageData(256, 1);
    const words = new Uint32Array(image.data.buffer);
    if (options.mode === "contours") {
      for (const [share, place] of lines(options.signed)) {
        const centre = Math.round(options.signed ? 127.5 + 127.5 * share : 255 * share);
        words.fill(options.colours[place], centre - 4, centre + 5);
      }
    } else words.set(layerTable({ ...options, strength: 1 }));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function peakOf(map) {
    let peak = 0;
    for (let i = 0; i < map.length; i++) if (map[i] > peak) peak = map[i];
    return peak;
  }

  Object.assign(window.finerRay, { palettes, layerTable, paint, strip, peakOf });
})();
