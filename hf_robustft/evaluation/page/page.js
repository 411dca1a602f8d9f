"use strict";
// Tables sort by a click on a heading, and what the mouse rests on says its numbers. Without this the page is the same but still.
for (const table of document.querySelectorAll("table.sortable")) {
  const value = (row, column) => {
    const cell = row.cells[column], data = cell.querySelector("data[value]:not([data-form=text])");
    const text = cell.textContent.trim().toLowerCase();
    return data ? Number(data.value) : cell.classList.contains("words") || column === 0 ? text : /^\d+$/.test(text) ? Number(text) : null;
  };
  // "FLYP, 3e-4" before "FLYP, 1e-3", as 3e-4 is the smaller rate.
  const rate = (text) => /, \d[.\d]*e-?\d+$/.test(text) ? Number(text.slice(text.lastIndexOf(",") + 1)) : 0;
  const name = (text) => (rate(text) ? text.slice(0, text.lastIndexOf(",")) : text);
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : name(String(a)).localeCompare(name(String(b))) || rate(String(a)) - rate(String(b));
  [...table.tHead.rows[table.tHead.rows.length - 1].cells].forEach((head, column) => {
    // A column of pictures has no order.
    if (![...table.tBodies[0].rows].some((row) => value(row, column) !== null)) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.best === "low" || column === 0 ? "ascending" : "descending";
      const now = head.getAttribute("aria-sort");
      const next = !now ? first : now === "ascending" ? "descending" : "ascending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      const body = table.tBodies[0], sign = next === "ascending" ? 1 : -1;
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);
for (const mark of document.querySelectorAll("svg [data-tip]")) {
  mark.querySelector("title")?.remove();
  const show = (event) => {
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6)) + "px";
    tip.style.top = (event.clientY + 24 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : event.clientY + 18) + "px";
  };
  mark.addEventListener("pointermove", show);
  mark.addEventListener("pointerdown", show);
  // A finger that is lifted leaves what it touched: then the numbers stay until the next touch.
  mark.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") tip.hidden = true; });
}
document.addEventListener("pointerdown", (event) => { if (!event.target.closest("svg [data-tip]")) tip.hidden = true; });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
for (const series of document.querySelectorAll("[data-series]")) {
  const same = () => document.querySelectorAll(`[data-series="${CSS.escape(series.dataset.series)}"]`);
  series.addEventListener("pointerenter", () => { document.body.classList.add("hover"); same().forEach((other) => other.classList.add("on")); });
  series.addEventListener("pointerleave", () => { document.body.classList.remove("hover"); same().forEach((other) => other.classList.remove("on")); });
}
