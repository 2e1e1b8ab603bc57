"use strict";
// What both pages share: asking, ordering, listening, and a few ways to make elements.

const $ = (id) => document.getElementById(id);
const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";

function make(kind, attributes = {}, ...inside) {
  const element = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...inside.filter((one) => one !== null && one !== undefined));
  return element;
}

function svg(kind, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
}

async function ask(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (answer.status === 401) { location.href = "/login"; throw new Error("log in first"); }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.refused ?? `status ${answer.status}`);
  return found;
}

async function order(path, what) {
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", "x-lab-token": meta("lab-token") },
      body: JSON.stringify(what),
    });
    if (answer.status === 401) location.href = "/login";
    return await answer.json();
  } catch {
    return { refused: "the lab does not answer" };
  }
}

function listen(path, take) {
  const source = new EventSource(path);
  source.onmessage = (message) => { document.body.classList.remove("away"); take(JSON.parse(message.data)); };
  source.onerror = () => document.body.classList.add("away");
  addEventListener("pagehide", () => source.close());
}

// Only what has changed is written, so that a screen reader and the browser have little to do.
function put(element, text) { if (element && element.textContent !== text) element.textContent = text; }
function mark(element, name, on) { element.classList.toggle(name, Boolean(on)); }

function clock(view) {
  put($("civil"), view.civil);
  const told = view.state === "running" ? (view.reached && view.reached < view.speed * 0.8 ? `×${view.speed} (reaches ×${view.reached})` : `×${view.speed}`)
    : view.state === "rewinding" && view.rewinding ? `going to ${view.rewinding[0].toFixed(0)} s: ${view.rewinding[1].toFixed(0)} s`
    : view.state;
  put($("pace"), `t = ${view.t.toFixed(0)} s, ${told}`);
}

// Resolves to whether it was confirmed.
function confirmed(title, text) {
  put($("confirm-title"), title);
  put($("confirm-text"), text);
  const dialog = $("confirm-dialog");
  dialog.returnValue = "";
  dialog.showModal();
  $("confirm-go").focus();
  return new Promise((resolve) => {
    $("confirm-go").value = "yes";
    $("confirm-cancel").onclick = () => dialog.close("");
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
