"use strict";
// The page works without this: it then shows what is new after the next press.
const log = document.getElementById("log");
const field = document.getElementById("say");
const state = document.getElementById("state");
const answer = document.getElementById("answer");
const usual = state.textContent;
let clearing = 0;

// Who reads further up is left there.
function near() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 200;
}

function down() {
  log.scrollTop = log.scrollHeight;
}

function put({ id, html, version }) {
  // The server escaped each text of it.
  const holder = document.createElement("template");
  holder.innerHTML = html;
  const there = document.getElementById("m" + id);
  if (there?.dataset.v === version) return; // nothing is announced twice
  const below = near();
  // A press edits its own message: the keyboard's place is kept.
  const value = there && there.contains(document.activeElement) && document.activeElement.value;
  const next = there ?? [...log.children].find((child) => Number(child.id.slice(1)) > id);
  if (there) there.replaceWith(holder.content);
  else if (!next) log.append(holder.content);
  else if (next !== log.firstElementChild) next.before(holder.content);
  while (log.children.length > 60) log.firstElementChild.remove();
  if (value) {
    const item = document.getElementById("m" + id);
    const again = [...item.querySelectorAll("button")].find((b) => b.value === value);
    (again || item.querySelector("button") || log).focus();
  }
  if (below) down();
}

const events = new EventSource(log.dataset.events);
const on = (name, act) => events.addEventListener(name, (event) => act(JSON.parse(event.data)));
on("all", ({ items }) => {
  const ids = new Set(items.map((item) => "m" + item.id));
  for (const child of [...log.children]) if (!ids.has(child.id)) child.remove();
  items.forEach(put);
  state.textContent = usual;
  document.documentElement.dataset.live = "yes";
});
on("message", (item) => {
  state.textContent = usual;
  put(item);
});
on("parts", (parts) => {
  for (const [id, html] of Object.entries(parts)) {
    const part = document.getElementById(id);
    if (!part || part.innerHTML === html) continue;
    const focused = part.contains(document.activeElement);
    part.innerHTML = html; // the server escaped each text of it
    if (focused) (part.querySelector("button") || log).focus();
  }
});
on("answer", ({ text }) => {
  const below = near();
  answer.textContent = text;
  if (below) down();
  clearTimeout(clearing);
  clearing = setTimeout(() => { answer.textContent = ""; }, 8000);
});
events.onerror = () => { state.textContent = "connecting…"; };

async function send(form, button) {
  const body = new URLSearchParams(new FormData(form, button));
  const response = await fetch("/act", { method: "POST", body, headers: { Accept: "text/plain" } });
  if (!response.ok) answer.textContent = await response.text();
  return response.ok;
}

document.addEventListener("submit", async (event) => {
  const { target: form, submitter } = event;
  event.preventDefault();
  try {
    if (await send(form, submitter)) {
      if (form.id === "write") field.value = "";
      down();
    }
  } catch {
    state.textContent = "the stand-in does not answer";
  }
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (field.value.trim()) field.form.requestSubmit(field.form.querySelector("button"));
  }
});
down();
