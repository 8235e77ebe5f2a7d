"use strict";
// Without this script the page reloads by itself. With it, only what changed is
// replaced: the focus, the scroll position and what a screen reader reads stay.
const every = Number(document.body.dataset.interval) * 1000;
async function refresh() {
  if (document.visibilityState !== "visible") return;
  const lost = document.getElementById("lost");
  try {
    const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(every) });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const old of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(old.id);
      if (fresh && fresh.innerHTML !== old.innerHTML) old.innerHTML = fresh.innerHTML;
      if (fresh && fresh.className !== old.className) old.className = fresh.className;
    }
    document.title = page.title;
    lost.hidden = true;
  } catch {
    lost.hidden = false;
  }
}
setInterval(refresh, every);
document.addEventListener("visibilitychange", refresh);
