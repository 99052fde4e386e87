/* A box that asks for images leads to their page, with what was asked in the address. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("form[data-go]").forEach((form) => {
    form.addEventListener("submit", (event) => {
      // A form that is sent would need a server.
      event.preventDefault();
      window.finerRayGo(form.dataset.go + encodeURIComponent(form.querySelector("input").value.trim()));
    });
  });
});
