/* A report in one file: shows one of the pages that it holds, by the address after `#`. */
"use strict";

(() => {
  const FIRST = "index.html";
  const TYPES = { html: "text/html", jpg: "image/jpeg", png: "image/png" };
  // As large as an image without its content may be.
  const EMPTY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
  const KEY = "finer_ray-theme";
  const root = `${location.href.split(/[?#]/)[0]}/`;
  const block = (path) => document.getElementById(`held:${path}`);
  const file = (path) => path.split("?")[0];
  let frame = document.createElement("iframe");
  let shown = { path: null, hash: "", url: "" };
  let turn = 0;

  function theme(chosen) {
    try {
      if (chosen) localStorage.setItem(KEY, chosen);
      else chosen = localStorage.getItem(KEY);
    } catch {
      // Without storage it lasts while the file is open.
    }
    if (chosen) document.documentElement.dataset.theme = chosen;
    return document.documentElement.dataset.theme;
  }

  /* A file that is held. */
  async function blob(path) {
    const held = block(path);
    const packed = Uint8Array.from(atob(held.textContent), (letter) => letter.charCodeAt(0));
    const type = TYPES[path.split(".").pop()] ?? "text/plain";
    if (!held.dataset.packed) return new Blob([packed], { type });
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Blob([await new Response(stream).arrayBuffer()], { type });
  }
  const text = async (path) => (await blob(path)).text();

  /* Path, with its query, and hash that an address `#images/3.html?of=x#gamma=2` names. */
  function named(address) {
    const [, path, hash] = address.match(/^#?([^#]*)(#.*)?$/s);
    return /\.html(\?|$)/.test(path) && block(file(path)) ? { path, hash: hash ?? "" } : { path: FIRST, hash: "" };
  }

  /* A page with its scripts and styles inside, its images to be asked for. */
  async function assembled(path) {
    const page = new DOMParser().parseFromString(await text(file(path)), "text/html");
    const base = page.createElement("base");
    base.href = root + path;
    // The policy of this file holds in its frame.
    page.querySelector("meta[http-equiv]").replaceWith(base);
    const inside = (link) => new URL(link, root + path).href.slice(root.length);
    for (const link of page.querySelectorAll("link[rel=stylesheet]")) {
      const style = page.createElement("style");
      style.textContent = await text(inside(link.getAttribute("href")));
      link.replaceWith(style);
    }
    for (const script of page.querySelectorAll("script[src]")) {
      script.textContent = await text(inside(script.getAttribute("src")));
      script.removeAttribute("src");
    }
    for (const image of page.querySelectorAll("img[src]")) {
      image.dataset.held = inside(image.getAttribute("src"));
      image.setAttribute("src", EMPTY);
    }
    const first = page.createElement("script");
    first.dataset.root = root;
    first.textContent = document.getElementById("page").textContent;
    base.after(first);
    const chosen = theme();
    if (chosen) page.documentElement.dataset.theme = chosen;
    return page;
  }

  async function show() {
    const { path, hash } = named(location.hash);
    if (path === shown.path) {
      if (hash !== shown.hash) frame.contentWindow.postMessage({ at: hash || "#" }, "*");
      shown.hash = hash;
      return;
    }
    const mine = ++turn;
    const page = await assembled(path);
    if (mine !== turn) return;
    URL.revokeObjectURL(shown.url);
    const content = `<!doctype html>${page.documentElement.outerHTML}`;
    const url = URL.createObjectURL(new Blob([content], { type: "text/html" }));
    shown = { path, hash, url };
    // A new frame: a frame that goes elsewhere would leave steps of its own in the browser's history.
    const next = document.createElement("iframe");
    next.title = document.title = page.title;
    next.src = url + hash;
    frame.replaceWith(next);
    frame = next;
    frame.focus();
  }

  function address(path, hash) {
    return `#${path}${hash === "#" ? "" : hash}`;
  }

  addEventListener("message", async (event) => {
    if (event.source !== frame.contentWindow) return;
    const { go, aside, at, want, scrolled, theme: chosen, ready } = event.data;
    if (go !== undefined && aside) open(`${root.slice(0, -1)}#${go}`, "_blank", "noopener");
    else if (go !== undefined) {
      if (location.hash === `#${go}`) event.source.postMessage({ at: named(go).hash || "#" }, "*");
      location.hash = go;
    }
    else if (at !== undefined) {
      shown.hash = at;
      history.replaceState(history.state, "", address(shown.path, at));
    } else if (want && block(want)) event.source.postMessage({ path: want, blob: await blob(want) }, "*");
    else if (scrolled !== undefined) history.replaceState({ scrolled }, "");
    else if (chosen) theme(chosen);
    else if (ready && history.state?.scrolled) event.source.postMessage({ scroll: history.state.scrolled }, "*");
  });
  addEventListener("hashchange", show);
  document.body.append(frame);
  document.getElementById("opening").remove();
  show();
})();
