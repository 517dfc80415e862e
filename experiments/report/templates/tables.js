// Tables are sorted by a click on a column's name; a click on a setting copies it.

function sortKey(cell) {
  const text = (cell?.dataset.value ?? cell?.textContent ?? "").trim().replace("\u2212", "-");
  const number = parseFloat(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
}

function compareKeys(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}

function sortBy(table, heading) {
  const isDown = heading.getAttribute("aria-sort") !== "descending";
  const body = table.tBodies[0], column = Number(heading.dataset.column);
  const rows = [...body.rows].sort((a, b) => compareKeys(sortKey(a.cells[column]), sortKey(b.cells[column])));
  table.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  body.append(...(isDown ? rows.reverse() : rows));
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.querySelectorAll("th[data-column]")) {
    heading.tabIndex = 0;
    heading.title = "sort by this column";
    heading.addEventListener("click", () => sortBy(table, heading));
    heading.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sortBy(table, heading);
    });
  }
}

for (const code of document.querySelectorAll("code.spec")) {
  code.title = "click to copy";
  code.addEventListener("click", async () => {
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      code.title = "copied";
    } catch {
      code.title = "selected: copy it with your keyboard";
    }
  });
}
