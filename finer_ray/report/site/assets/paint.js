/* Maps as colours on a canvas. Adds `palettes` and `paint` to `finerRay`. */
"use strict";

(() => {
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

  /* Colours of a map (height * width values) from 0 to a peak; the canvas has its size. */
  function paint(canvas, map, { peak, colours, mode = "full" }) {
    // Pixels are set one by one, and may be read: a canvas in the processor's memory, not the graphics card's.
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(canvas.width, canvas.height);
    const words = new Uint32Array(image.data.buffer);
    for (let i = 0; i < map.length; i++) {
      const level = peak > 0 ? Math.max(0, Math.min(255, Math.floor((256 * map[i]) / peak))) : 0;
      words[i] = mode === "heat" ? (colours[level] & 0xffffff) | (Math.min(230, 1.4 * level) << 24) : colours[level];
    }
    context.putImageData(image, 0, 0);
  }

  const peakOf = (map) => map.reduce((a, b) => Math.max(a, b), 0);

  Object.assign(window.finerRay, { palettes, paint, peakOf });
})();
