document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("article table.docutils")) {
    const heads = [...table.querySelectorAll("thead th")].map((th) => th.textContent.trim());
    table.classList.toggle("wide", heads.length > 4);
    table.classList.toggle("widest", heads.length > 9);
    // A row that is a card on a phone names its cells by the heads of their columns.
    for (const row of heads.length < 3 ? [] : table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, number) => {
        if (number && heads[number] && cell.textContent.trim()) cell.dataset.label = heads[number];
      });
    }
  }
  // A short name in code stays in one line; a long one breaks behind a part of it.
  for (const code of document.querySelectorAll("article table.docutils td code")) {
    if (code.textContent.length <= 20) {
      code.classList.add("short");
      continue;
    }
    const walker = document.createTreeWalker(code, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    for (const text of texts) {
      const parts = text.data.split(/(?<=[/_.:,=(])(?=\w)/);
      text.replaceWith(...parts.flatMap((part, at) => (at ? [document.createElement("wbr"), part] : [part])));
    }
  }
});
