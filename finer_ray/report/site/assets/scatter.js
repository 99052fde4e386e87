/* The map of the embeddings on a canvas: points that fit what is asked are coloured, a rectangle selects. Sets
   `finerRayScatter`(data, {address, change}), whose `draw` takes a state of listing.js. */
"use strict";

window.finerRayScatter = (data, { address, change }) => {
  const listing = window.finerRayListing;
  const control = (name) => document.getElementById(name);
  const canvas = control("plane");
  const tip = control("tip");
  // In the order of a box.
  const edges = ["left", "top", "right", "bottom"].map((edge) => document.querySelector(`[data-edge=${edge}]`));
  const lacking = new Set(data.lacking);
  const known = data.map.flatMap(([x], place) => (x === null ? [] : [place]));
  // Classes with a colour of their own, and with a label on the map.
  const [COLOURED, LABELLED] = [5, 14];
  // Pixels to the edge, from pointer to point, and of a photo on the map.
  const [EDGE, NEAR, PHOTO] = [26, 12, 34];
  const EVERYTHING = [0, 0, 1000, 1000];
  const classes = data.fields.find(({ name }) => name === "label") ?? data.fields.find(({ name }) => name === "predicted");
  const [largest] = frequent(classes);
  // Colours of classes say little where each has a point or two.
  const usual = (classes.values.filter((value) => value === largest).length < 3 && data.fields.find(({ name }) => name === "verdict")) || classes;
  const tints = data.fields.filter(({ name, kind }) => kind === "number" || ["verdict", "label", "predicted"].includes(name));
  let state = null;
  let fitting = [];
  let dragged = null;
  let frame = 0;

  const low = [0, 1].map((axis) => known.reduce((a, place) => Math.min(a, data.map[place][axis]), Infinity));
  const high = [0, 1].map((axis) => known.reduce((a, place) => Math.max(a, data.map[place][axis]), -Infinity));

  /* Pixels of the canvas for a place on the map: one scale for both axes. */
  function view() {
    const size = [canvas.clientWidth, canvas.clientHeight];
    const scale = Math.min(...size.map((pixels, axis) => (pixels - 2 * EDGE) / (high[axis] - low[axis] || 1)));
    const start = size.map((pixels, axis) => (pixels - scale * (low[axis] + high[axis])) / 2);
    return {
      to: (place) => place.map((value, axis) => start[axis] + scale * value),
      from: (pixels) => pixels.map((value, axis) => (value - start[axis]) / scale),
    };
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  /* The most frequent values of a choice, as places in its options. */
  function frequent(field, places = known) {
    const counts = new Map();
    for (const place of places) {
      if (field.values[place] !== null) counts.set(field.values[place], (counts.get(field.values[place]) ?? 0) + 1);
    }
    return [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || a - b);
  }

  /* What a point's colour is, and lines of the legend: a swatch's class and words. */
  function tinted() {
    const field = tints.find(({ name }) => name === state.tint) ?? usual;
    const grey = colour("--soft");
    if (field.kind === "number") {
      const values = known.map((place) => field.values[place]).filter((value) => value !== null);
      const [least, most] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
      const hex = window.finerRayColours.viridis;
      const level = (value) => Math.min(255, Math.floor((256 * (value - least)) / (most - least || 1)));
      const of = (value) => (value === null ? grey : `#${hex.slice(6 * level(value), 6 * level(value) + 6)}`);
      return { of: (place) => of(field.values[place]), ramp: { of, least, most, words: field.words } };
    }
    const tones = field.name === "verdict" ? ["--good", "--bad", "--soft"] : [0, 1, 2, 3, 4].map((number) => `--s${number}`);
    const seen = frequent(field);
    const order = field.name === "verdict" ? [0, 1, 2].filter((option) => seen.includes(option)) : seen.slice(0, COLOURED);
    const toneOf = (option) => tones[field.name === "verdict" ? option : order.indexOf(option)];
    const colours = new Map(order.map((option) => [option, colour(toneOf(option))]));
    const legend = order.map((option) => [`swatch ${toneOf(option).slice(2)}`, field.options[option]]);
    if (known.some((place) => !colours.has(field.values[place]))) legend.push(["swatch soft", "others"]);
    return { of: (place) => colours.get(field.values[place]) ?? grey, legend };
  }

  function tell({ legend, ramp }) {
    const lines = (legend ?? []).map(([className, words]) => {
      const line = document.createElement("li");
      line.append(Object.assign(document.createElement("span"), { className }), words);
      return line;
    });
    if (ramp) {
      const bar = Object.assign(document.createElement("canvas"), { width: 64, height: 1, className: "ramp" });
      const context = bar.getContext("2d");
      for (let x = 0; x < 64; x++) {
        context.fillStyle = ramp.of(ramp.least + (x / 63) * (ramp.most - ramp.least));
        context.fillRect(x, 0, 1, 1);
      }
      bar.setAttribute("aria-hidden", "true");
      const line = document.createElement("li");
      const [least, most] = [ramp.least, ramp.most].map((value) => Number(value.toPrecision(2)));
      line.append(`${least} `, bar, ` ${most}: ${ramp.words}`);
      lines.push(line);
    }
    control("tints").replaceChildren(...lines);
  }

  function paint() {
    frame = 0;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const { to } = view();
    const tint = tinted();
    tell(tint);
    const shown = known.filter((place) => fitting[place]);
    const pale = colour("--line");
    dots(context, to, known.filter((place) => !fitting[place]), () => pale);
    dots(context, to, shown, tint.of);
    context.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "center";
    context.lineJoin = "round";
    labels(context, to, shown, tint);
    rectangle(context, to);
    const words = listing.words(data, { ...state, box: null, sort: "", order: "" });
    canvas.setAttribute("aria-label", `Map of the embeddings: ${known.length} images, ${shown.length} of them ${words ? `with ${words}` : "shown"}`);
  }

  function dots(context, to, places, of) {
    const size = known.length > 2000 ? 1.5 : known.length > 400 ? 2.6 : 4;
    const groups = new Map();
    for (const place of places) {
      const tone = of(place);
      if (!groups.has(tone)) groups.set(tone, []);
      groups.get(tone).push(to(data.map[place]));
    }
    for (const [tone, points] of groups) {
      context.fillStyle = tone;
      context.beginPath();
      for (const [x, y] of points) {
        // Squares where they are too small to be told from discs: many are drawn several times as fast.
        if (size < 2) context.rect(x - size, y - size, 2 * size, 2 * size);
        else context.moveTo(x, y), context.arc(x, y, size, 0, 2 * Math.PI);
      }
      context.fill();
    }
  }

  function rectangle(context, to) {
    const box = dragged ?? state.box;
    if (!box) return;
    const [[left, top], [right, bottom]] = [to(box.slice(0, 2)), to(box.slice(2))];
    context.fillStyle = context.strokeStyle = colour("--focus");
    context.globalAlpha = 0.1;
    context.fillRect(left, top, right - left, bottom - top);
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    context.strokeRect(left, top, right - left, bottom - top);
  }

  /* The most frequent classes have a label amid their points, where it covers no other: a photo, or their name. */
  function labels(context, to, shown, tint) {
    const groups = new Map();
    for (const place of shown) {
      const option = classes.values[place];
      if (option === null) continue;
      if (!groups.has(option)) groups.set(option, []);
      groups.get(option).push(place);
    }
    const taken = [];
    for (const option of frequent(classes, shown)) {
      if (taken.length === LABELLED) break;
      const group = groups.get(option).map((place) => to(data.map[place]));
      const [x, y] = [0, 1].map((axis) => group.map((point) => point[axis]).sort((a, b) => a - b)[group.length >> 1]);
      const away = group.map((point) => Math.hypot(point[0] - x, point[1] - y));
      const middle = groups.get(option)[away.indexOf(Math.min(...away))];
      const photo = photoOf(middle);
      const half = photo ? [PHOTO / 2, PHOTO / 2] : [context.measureText(classes.options[option]).width / 2, 8];
      const rise = photo ? PHOTO / 2 + 9 : 12;
      const at = [x, y < rise + half[1] ? y + rise : y - rise].map((value, axis) =>
        Math.max(half[axis] + 2, Math.min([canvas.clientWidth, canvas.clientHeight][axis] - half[axis] - 2, value)),
      );
      if (taken.some((other) => [0, 1].every((axis) => Math.abs(at[axis] - other.at[axis]) < half[axis] + other.half[axis] + 3))) continue;
      taken.push({ at, half });
      if (photo) framed(context, photo, at, tint.of(middle));
      else written(context, classes.options[option], at);
    }
  }

  function framed(context, photo, [x, y], tone) {
    const side = Math.min(photo.naturalWidth, photo.naturalHeight);
    const [left, top] = [(photo.naturalWidth - side) / 2, (photo.naturalHeight - side) / 2];
    context.save();
    context.beginPath();
    context.roundRect(x - PHOTO / 2, y - PHOTO / 2, PHOTO, PHOTO, 7);
    context.clip();
    context.drawImage(photo, left, top, side, side, x - PHOTO / 2, y - PHOTO / 2, PHOTO, PHOTO);
    context.lineWidth = 5;
    context.strokeStyle = tone;
    context.stroke();
    context.restore();
  }

  function written(context, text, [x, y]) {
    context.strokeStyle = colour("--card");
    context.lineWidth = 4;
    context.strokeText(text, x, y + 4);
    context.fillStyle = colour("--ink");
    context.fillText(text, x, y + 4);
  }

  const photos = new Map();
  /* A photo for the canvas; until it is here, and where it never will be, nothing. */
  function photoOf(place) {
    const row = data.rows[place];
    if (lacking.has(row)) return null;
    if (!photos.has(row)) {
      const photo = new Image();
      photo.addEventListener("load", soon);
      photo.src = `images/${row}.jpg`;
      photos.set(row, photo);
    }
    return photos.get(row).naturalWidth ? photos.get(row) : null;
  }

  function soon() {
    if (!frame && state) frame = requestAnimationFrame(paint);
  }

  const pixels = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };

  function nearest(at) {
    const { to } = view();
    let best = null;
    let least = NEAR ** 2;
    for (const place of known) {
      if (!fitting[place]) continue;
      const [x, y] = to(data.map[place]);
      const distance = (x - at[0]) ** 2 + (y - at[1]) ** 2;
      if (distance < least) [best, least] = [place, distance];
    }
    return best;
  }

  function hover(place, touched = false) {
    tip.hidden = place === null;
    canvas.style.cursor = place === null ? "crosshair" : "pointer";
    if (place === null) return;
    const [x, y] = view().to(data.map[place]);
    const [photo, words] = tip.children;
    photo.hidden = lacking.has(data.rows[place]);
    if (!photo.hidden) photo.src = `images/${data.rows[place]}.jpg`;
    words.textContent = `${data.names[data.predicted[place]]} · ${data.keys[place]}`;
    tip.href = address(place);
    tip.classList.toggle("touched", touched);
    tip.style.left = `${Math.max(0, Math.min(canvas.clientWidth - 150, x - 75))}px`;
    tip.style.top = y > canvas.clientHeight / 2 ? "" : `${y + 12}px`;
    tip.style.bottom = y > canvas.clientHeight / 2 ? `${canvas.clientHeight - y + 12}px` : "";
  }

  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    start = pixels(event);
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = pixels(event);
    if (!start) return hover(nearest(at));
    if (!dragged && Math.hypot(at[0] - start[0], at[1] - start[1]) < 5) return;
    hover(null);
    const { from } = view();
    const [one, other] = [from(start), from(at)];
    dragged = [0, 1].map((axis) => Math.round(Math.min(one[axis], other[axis])));
    dragged.push(...[0, 1].map((axis) => Math.round(Math.max(one[axis], other[axis]))));
    soon();
  });
  canvas.addEventListener("pointerup", (event) => {
    const box = dragged;
    const clicked = start && !box;
    start = dragged = null;
    if (box) return change({ box });
    const place = clicked ? nearest(pixels(event)) : null;
    if (place !== null && event.pointerType !== "touch") window.finerRayGo(address(place));
    else if (clicked) hover(place, true);
    if (clicked && place === null && state.box) change({ box: null });
  });
  canvas.addEventListener("pointercancel", () => {
    start = dragged = null;
    soon();
  });
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType !== "touch") hover(null);
  });

  control("edges").addEventListener("input", () => {
    const box = edges.map((edge) => Number(edge.value));
    change({ box: box.every((value, number) => value === EVERYTHING[number]) ? null : box });
  });
  for (const { name, title } of tints) control("tint").append(new Option(name === classes.name ? `class (${title})` : title, name));
  control("tint").addEventListener("input", () => {
    change({ tint: control("tint").value === usual.name ? "" : control("tint").value });
  });
  new ResizeObserver(soon).observe(canvas);
  new MutationObserver(soon).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", soon);

  // On a narrow screen the images would stand a screen below.
  if (matchMedia("(max-width: 62rem)").matches && location.hash !== "#map") control("map").open = false;

  return {
    draw(asked) {
      state = asked;
      fitting = listing.fits(data, state, false);
      control("tint").value = tints.some(({ name }) => name === state.tint) ? state.tint : usual.name;
      edges.forEach((edge, number) => (edge.value = (state.box ?? EVERYTHING)[number]));
      control("map").open ||= state.box !== null;
      hover(null);
      soon();
    },
  };
};
