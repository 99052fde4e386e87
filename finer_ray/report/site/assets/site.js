/* What every page has: light or dark, tables that sort, lists that can be searched. */
"use strict";

(() => {
  const root = document.documentElement;
  const KEY = "finer_ray-theme";

  function remembered() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function dark() {
    const chosen = root.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  // At once, before anything is drawn.
  const chosen = remembered();
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  root.classList.add("scripted");

  /* To another page by a link, which a report in one file follows too. */
  window.finerRayGo = (address) => {
    const link = document.createElement("a");
    link.href = address;
    document.body.append(link);
    link.click();
    link.remove();
  };

  function toggles() {
    const button = document.getElementById("theme");
    const say = () => button.setAttribute("aria-pressed", String(dark()));
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try {
        localStorage.setItem(KEY, root.dataset.theme);
      } catch {
        // Without storage the choice lasts for this page.
      }
      say();
    });
    say();
  }

  function sorts(table) {
    const body = table.tBodies[0];
    table.querySelectorAll("th button").forEach((button) => {
      const head = button.closest("th");
      button.addEventListener("click", () => {
        const numeric = head.classList.contains("number");
        const before = head.getAttribute("aria-sort");
        const up = before ? before !== "ascending" : !numeric;
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => {
          const cell = row.cells[head.cellIndex];
          return numeric ? Number(cell.dataset.value || NaN) : cell.textContent.trim();
        };
        const lines = [...body.rows].map((row) => [key(row), row]);
        lines.sort(([a], [b]) => {
          // What is unknown stays last either way.
          if (numeric && (Number.isNaN(a) || Number.isNaN(b))) return Number.isNaN(a) - Number.isNaN(b);
          return (up ? 1 : -1) * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
        });
        body.append(...lines.map(([, row]) => row));
      });
    });
  }

  function searches(input) {
    const items = [...document.querySelectorAll(input.dataset.items)];
    const count = document.getElementById(input.dataset.count);
    const search = () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      for (const item of items) {
        const text = item.dataset.text.toLowerCase();
        const fits = words.every((word) => text.includes(word));
        item.hidden = !fits;
        found += fits;
      }
      count.textContent = `${found} of ${items.length}`;
    };
    input.addEventListener("input", search);
    search();
  }

  /* A box that asks for images leads to their page, with what was asked in the address. */
  function leads(form) {
    form.addEventListener("submit", (event) => {
      // A form that is sent would need a server.
      event.preventDefault();
      window.finerRayGo(form.dataset.go + encodeURIComponent(form.querySelector("input").value.trim()));
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    toggles();
    document.querySelectorAll("form[data-go]").forEach(leads);
    document.querySelectorAll("table.sortable").forEach(sorts);
    document.querySelectorAll("input[data-items]").forEach(searches);
  });
})();
