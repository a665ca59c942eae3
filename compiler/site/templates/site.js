"use strict";

// Search, sorting, copying and the choice of light or dark. Without scripts, all pages are there in full.

function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // not every browser keeps something for a page that was opened from a folder
  }
}

function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // the choice then lasts as long as the page
  }
}

function theme() {
  const button = document.querySelector("button.theme");
  const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const chosen = remembered("optc-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  button.hidden = false;
  button.addEventListener("click", () => {
    const next = dark() ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    remember("optc-theme", next);
  });
}

function search() {
  const input = document.querySelector("#find");
  if (!input) return;
  const rows = [...document.querySelectorAll("tr[data-search]")];
  const chips = [...document.querySelectorAll(".chips button")];
  const found = document.querySelector("#found");
  let family = "";

  function filter() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = (!family || row.dataset.family === family) && words.every((word) => row.dataset.search.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    for (const section of document.querySelectorAll("main section")) {
      section.hidden = !section.querySelector("tr[data-search]:not([hidden])");
    }
    found.textContent = words.length || family ? `${count} of ${rows.length}` : "";
  }

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      family = chip.dataset.family;
      for (const other of chips) other.setAttribute("aria-pressed", String(other === chip));
      filter();
    });
  }
  input.addEventListener("input", filter);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== input && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      input.focus();
    } else if (event.key === "Escape" && document.activeElement === input) {
      input.value = "";
      filter();
    }
  });
  input.hidden = document.querySelector(".chips").hidden = false;
  filter(); // a browser that goes back may have kept what was typed
}

function sorting() {
  for (const head of document.querySelectorAll("table.sortable th[data-sort]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  }
}

function sort(head) {
  const table = head.closest("table");
  const column = [...head.parentElement.children].indexOf(head);
  const numbers = head.dataset.sort === "number";
  const up = head.getAttribute("aria-sort") !== "ascending";
  const key = (row) => numbers ? Number(row.children[column].dataset.value) : row.children[column].textContent.trim();
  const compare = (a, b) => numbers ? key(a) - key(b) : key(a).localeCompare(key(b));
  const rows = [...table.tBodies[0].rows].sort((a, b) => up ? compare(a, b) : compare(b, a));
  table.tBodies[0].append(...rows);
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
}

function copying() {
  if (!navigator.clipboard) return;
  for (const block of document.querySelectorAll(".code")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.append(button);
  }
}

theme();
search();
sorting();
copying();
