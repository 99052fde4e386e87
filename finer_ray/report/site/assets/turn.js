/* Next and Previous of an image page in the order of a list. The list is what ?of= in the page's address says, a state of
   listing.js; without it the links stay as they are, by row. Settings of the view are in the address behind #, which
   this script leaves alone. */
"use strict";

(() => {
  const of = new URL(document.baseURI).searchParams.get("of");
  if (!of) return;

  function turn() {
    const listing = window.finerRayListing;
    const data = window.finerRayImages;
    const state = listing.read(of, data);
    const places = listing.places(data, state);
    const row = Number(document.querySelector(".turn").dataset.row);
    const here = places.indexOf(data.rows.indexOf(row));
    if (here >= 0) {
      lead("before", places[here - 1]);
      lead("after", places[here + 1]);
    }
    const words = listing.words(data, state);
    const position = here >= 0 ? `${here + 1} of ${places.length}` : `not among the ${places.length}`;
    document.getElementById("turn").textContent = words ? `${position}: ${words}` : position;

    function lead(name, place) {
      const link = document.getElementById(name);
      link.hidden = place === undefined;
      if (link.hidden) link.removeAttribute("href");
      else link.href = `${data.rows[place]}.html?${new URLSearchParams({ of })}${link.hash || location.hash}`;
    }
  }

  document.getElementById("images").hash = of;
  // The list may be long, and most pages are seen without it.
  const script = document.createElement("script");
  script.src = "../assets/images.js";
  script.addEventListener("load", turn);
  document.head.append(script);
})();
