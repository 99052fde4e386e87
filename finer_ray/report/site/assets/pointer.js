/* Values at a place: a cross in every panel, by pointer, touch, or the arrow keys on a map. */
"use strict";

(() => {
  const { data, shown, compact } = window.finerRay;
  const [height, width] = data.size;
  const stacks = [...document.querySelectorAll(".panels .stack")].filter((stack) => !stack.querySelector(".lacking"));
  const crosses = stacks.map((stack) => {
    const cross = document.createElement("div");
    cross.className = "cross";
    cross.hidden = true;
    // What a screen reader is told stands in #place.
    cross.setAttribute("aria-hidden", "true");
    cross.append(document.createElement("span"));
    stack.append(cross);
    return cross;
  });
  const signed = (panel, value) => (panel.signed && value > 0 ? "+" : "") + compact(value).replace("-", "−");

  /* The pixel (x, y) under the cross, or null. */
  let place = null;

  function show() {
    crosses.forEach((cross, i) => {
      cross.hidden = !place;
      if (!place) return;
      const [x, y] = [(place[0] + 0.5) / width, (place[1] + 0.5) / height];
      cross.style.setProperty("--x", `${100 * x}%`);
      cross.style.setProperty("--y", `${100 * y}%`);
      cross.classList.toggle("left", x > 0.6);
      cross.classList.toggle("up", y > 0.8);
      const panel = shown().find(({ kind }) => stacks[i].querySelector(`#${kind}-map`));
      cross.firstChild.hidden = !panel;
      if (panel) cross.firstChild.textContent = signed(panel, panel.map[place[1] * width + place[0]]);
    });
  }

  function say() {
    const values = shown().map((panel) => `${panel.title} ${signed(panel, panel.map[place[1] * width + place[0]])}`);
    const [x, y] = [Math.round((100 * place[0]) / width), Math.round((100 * place[1]) / height)];
    document.getElementById("place").textContent = `${x} % across, ${y} % down: ${values.join("; ")}`;
  }

  const inside = (value, count) => Math.max(0, Math.min(count - 1, Math.floor(value)));

  function follow(event) {
    const box = event.currentTarget.getBoundingClientRect();
    place = [
      inside((width * (event.clientX - box.left)) / box.width, width),
      inside((height * (event.clientY - box.top)) / box.height, height),
    ];
    show();
  }

  function leave() {
    place = null;
    show();
  }

  /* The strongest place of the map that has the keyboard. */
  function start(canvas) {
    const { map } = shown().find(({ kind }) => canvas.id === `${kind}-map`);
    const at = map.reduce((best, value, i) => (value > map[best] ? i : best), 0);
    place = [at % width, Math.floor(at / width)];
  }

  function move(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Escape") return leave();
    if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (!place) start(event.target);
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(width / 32));
    place = [inside(place[0] + step * way[0], width), inside(place[1] + step * way[1], height)];
    show();
    say();
  }

  for (const stack of stacks) {
    stack.addEventListener("pointerdown", follow);
    stack.addEventListener("pointermove", follow);
    stack.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave());
    stack.addEventListener("keydown", move);
    stack.addEventListener("focusin", (event) => {
      if (!event.target.matches(":focus-visible")) return;
      start(event.target);
      show();
      say();
    });
    stack.addEventListener("focusout", leave);
  }
  document.addEventListener("pointerdown", (event) => event.target.closest(".stack") || leave());
  document.addEventListener("drawn", show);
})();
