/* Save figure: what is seen, with the question and the settings, as SVG or PNG, made in the page. */
"use strict";

(() => {
  const { data, shown } = window.finerRay;
  const SPACE = "http://www.w3.org/2000/svg";
  const FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";
  /* Sides of a picture, of the gaps, and of the page's edge; lines of text. Pixels. */
  const [SIDE, GAP, EDGE] = [360, 20, 24];
  const [INK, SOFT] = ["#1c2024", "#5c6670"];

  /* What XML cannot hold: control characters, and halves of characters. */
  const UNFIT = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Cs}/gu;

  function element(name, attributes, text = "") {
    const made = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text.replace(UNFIT, "\ufffd");
    return made;
  }

  /* Lines of a text that fit into a width. */
  function wrapped(text, size, width, weight) {
    const context = document.createElement("canvas").getContext("2d");
    context.font = `${weight} ${size}px ${FONT}`;
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
      if (context.measureText(longer).width <= width) lines[lines.length - 1] = longer;
      else lines.push(word);
    }
    return lines.filter(Boolean);
  }

  /* A column of text from a place down; gives where it ends. */
  function write(svg, text, { x, y, width, size = 13, weight = 400, fill = SOFT }) {
    for (const line of wrapped(text, size, width, weight)) {
      svg.append(element("text", { x, y: y + size, "font-size": size, "font-weight": weight, fill }, line));
      y += Math.round(1.35 * size);
    }
    return y;
  }

  /* The photo, and the maps over it in the order of the page. */
  function pictures() {
    const outline = document.getElementById("region").checked && data.outline ? [data.outline] : [];
    const photo = data.photo ? [data.photo] : [];
    const maps = shown().map((panel) => ({
      ...panel,
      layers: [...photo, document.getElementById(`${panel.kind}-map`).toDataURL(), ...outline],
      scale: document.getElementById(`${panel.kind}-scale`).toDataURL(),
      back: getComputedStyle(document.getElementById(`${panel.kind}-scale`)).backgroundColor,
    }));
    return [...photo.map((href) => ({ title: "Photo", note: "as the model sees it", layers: [href, ...outline] })), ...maps];
  }

  function legend(svg, { low, high, scale, back }, x, y) {
    svg.append(element("rect", { x, y, width: SIDE, height: 9, fill: back }));
    svg.append(element("image", { x, y, width: SIDE, height: 9, href: scale, preserveAspectRatio: "none" }));
    const below = { y: y + 24, "font-size": 12, fill: SOFT };
    svg.append(element("text", { ...below, x }, low));
    svg.append(element("text", { ...below, x: x + SIDE, "text-anchor": "end" }, high));
    return y + 30;
  }

  function figure() {
    const all = pictures();
    const high = Math.round((SIDE * data.size[0]) / data.size[1]);
    const width = 2 * EDGE + all.length * SIDE + (all.length - 1) * GAP;
    const svg = element("svg", { xmlns: SPACE, width, "font-family": FONT });
    const question = shown()[0].question ?? data.target;
    const top = write(svg, question, { x: EDGE, y: EDGE, width: width - 2 * EDGE, size: 19, weight: 600, fill: INK }) + 10;
    const ends = all.map((picture, i) => {
      const x = EDGE + i * (SIDE + GAP);
      for (const href of picture.layers) {
        svg.append(element("image", { x, y: top, width: SIDE, height: high, href, preserveAspectRatio: "none" }));
      }
      const wide = { x, width: SIDE };
      let y = write(svg, picture.title, { ...wide, y: top + high + 8, size: 14, weight: 600, fill: INK });
      y = write(svg, picture.note, { ...wide, y });
      if (picture.scale) y = legend(svg, picture, x, y + 6);
      return picture.question && i > 1 ? write(svg, picture.question, { ...wide, y }) : y;
    });
    const state = document.getElementById("state").textContent;
    const end = write(svg, state, { x: EDGE, y: Math.max(...ends) + 10, width: width - 2 * EDGE, size: 12 });
    const height = end + EDGE;
    svg.prepend(element("rect", { width, height, fill: "#fff" }));
    svg.setAttribute("height", height);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    return { width, height, text: new XMLSerializer().serializeToString(svg) };
  }

  async function drawn({ width, height, text }) {
    const picture = new Image();
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await picture.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [2 * width, 2 * height];
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve));
  }

  /* The name has nothing of the input's: the row, and the gamma of the live map. */
  function name(kind) {
    const { row } = document.getElementById("state").dataset;
    const asked = shown()[0].asked;
    return `image-${row}${asked ? `-gamma-${asked.gamma}` : ""}.${kind}`;
  }

  async function save(kind) {
    const made = figure();
    const blob = kind === "svg" ? new Blob([made.text], { type: "image/svg+xml" }) : await drawn(made);
    const link = document.createElement("a");
    link.download = name(kind);
    link.href = URL.createObjectURL(blob);
    link.click();
    // The download has begun by then, and the bytes are freed.
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  document.querySelectorAll("[data-figure]").forEach((button) =>
    button.addEventListener("click", () => save(button.dataset.figure)),
  );
})();
