"use strict";
// Tables sort by the full value of each cell (data-key), not by its rounded text. Empty cells stay last.
(() => {
  const compare = (one, other, numeric, sign) => {
    if (one === "" || other === "") return (one === "") - (other === "");
    return sign * (numeric ? Number(one) - Number(other) : one.localeCompare(other, undefined, { numeric: true }));
  };
  const sort = (table, index) => {
    const heads = [...table.tHead.rows[0].cells];
    const head = heads[index];
    const numeric = head.classList.contains("n");
    // numbers are first sorted from the largest, texts from A
    const first = numeric ? "descending" : "ascending";
    const other = numeric ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row.cells[index].dataset.key, row]);
    rows.sort((a, b) => compare(a[0], b[0], numeric, order === "ascending" ? 1 : -1));
    for (const item of heads) item.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", order);
    body.append(...rows.map((row) => row[1]));
  };
  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent || "name";
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, index));
    });
  }
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details")) part.open = true;
  });
})();
