// A row that is a card on a phone names its cells by the heads of their columns.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.docutils")) {
    const heads = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
    table.classList.toggle("wide", heads.length > 5);
    if (heads.length < 3) continue;
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, number) => {
        if (number && heads[number] && cell.textContent.trim()) cell.dataset.label = heads[number];
      });
    }
  }
});
