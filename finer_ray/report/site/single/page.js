/* In a page of a report in one file, before its own scripts: links, images and the address go through the shell, which
   holds all pages. From disk a page in a frame is a stranger to the shell, so they speak by messages. */
"use strict";

(() => {
  const { root } = document.currentScript.dataset;
  const tell = (message) => parent.postMessage(message, "*");

  /* Where in the report an address leads; null where it leads out of it. */
  function inside(address) {
    try {
      const { href } = new URL(address, document.baseURI);
      return href.startsWith(root) ? href.slice(root.length) : null;
    } catch {
      return null;
    }
  }

  /* Images, asked for once they come near the screen, and scripts that a script asks for. */
  const waiting = new Map();
  const source = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");
  const near = new IntersectionObserver(
    (seen) => seen.filter((entry) => entry.isIntersecting).forEach((entry) => want(entry.target)),
    { rootMargin: "400px" },
  );

  function want(element) {
    near.unobserve(element);
    const path = element.dataset.held;
    if (!waiting.has(path)) waiting.set(path, new Set());
    waiting.get(path).add(element);
    tell({ want: path });
  }

  async function given({ path, blob }) {
    const elements = [...(waiting.get(path) ?? [])].filter((element) => element.dataset.held === path);
    waiting.delete(path);
    const address = URL.createObjectURL(blob);
    for (const element of elements) {
      if (element.tagName === "SCRIPT") {
        element.textContent = await blob.text();
        element.dispatchEvent(new Event("load"));
      } else source.set.call(element, address);
    }
  }

  for (const kind of [HTMLImageElement, HTMLScriptElement]) {
    const before = Object.getOwnPropertyDescriptor(kind.prototype, "src");
    Object.defineProperty(kind.prototype, "src", {
      ...before,
      set(address) {
        const path = inside(address);
        if (path === null) return before.set.call(this, address);
        this.dataset.held = path;
        want(this);
      },
    });
  }
  HTMLImageElement.prototype.setAttribute = function (name, value) {
    if (name.toLowerCase() === "src") this.src = value;
    else Element.prototype.setAttribute.call(this, name, value);
  };

  /* Links. */
  function follow(event) {
    const link = event.target.closest?.("a[href]");
    const path = link && !event.defaultPrevented ? inside(link.href) : null;
    if (path === null || event.button > 1) return;
    event.preventDefault();
    tell({ go: path, aside: event.button === 1 || event.ctrlKey || event.metaKey || event.shiftKey });
  }
  addEventListener("click", follow);
  addEventListener("auxclick", follow);

  /* The address: what a page writes after `#`. */
  const own = location.href.split("#")[0];
  const say = () => tell({ at: location.hash });
  const replace = history.replaceState.bind(history);
  for (const name of ["pushState", "replaceState"]) {
    history[name] = (state, title, address = "") => {
      const [, hash] = String(address).split("#");
      replace(state, "", hash ? `${own}#${hash}` : own);
      say();
    };
  }
  addEventListener("hashchange", say);

  /* Another place of this page, without a step in the history of the frame: the shell has made its own. */
  function turn(hash) {
    replace(null, "", own + hash);
    dispatchEvent(new HashChangeEvent("hashchange"));
    const place = document.getElementById(hash.slice(1));
    place?.scrollIntoView();
    place?.focus({ preventScroll: true });
  }

  /* Where one was on the page, and whether it is light or dark, which pages cannot store in a frame. */
  let resting = 0;
  addEventListener("scroll", () => {
    clearTimeout(resting);
    resting = setTimeout(() => tell({ scrolled: scrollY }), 150);
  });
  new MutationObserver(() => tell({ theme: document.documentElement.dataset.theme })).observe(document.documentElement, {
    attributeFilter: ["data-theme"],
  });

  /* Else the browser would print what fits into the frame. */
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "p") {
      event.preventDefault();
      print();
    }
  });

  addEventListener("message", (event) => {
    if (event.source !== parent) return;
    if (event.data.blob) given(event.data);
    else if (event.data.scroll) scrollTo(0, event.data.scroll);
    else turn(event.data.at);
  });
  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("img[data-held]").forEach((image) => near.observe(image)),
  );
  addEventListener("load", () => tell({ ready: true }));
})();
