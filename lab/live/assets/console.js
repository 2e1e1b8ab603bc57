"use strict";
// The instructor's console: time, scenarios, faults, what was noticed and what was stopped, and the way back.

let known = null, view = null, picked = null, seen = { next: 0, events: [] }, fetching = false, hidden = new Set(), dragged = false;
const KEEP = 4000, SHOWN = 300;
const LANES = { attack: "attack", alert: "alert", alarm: "alarm", operator: "operator", plant: "plant", outside: "outside tools", lab: "lab" };

async function begin() {
  known = await ask("/api/console");
  $("attacker").append(...known.attackers.map((one) => make("option", { value: one }, one)));
  const groups = Map.groupBy ? Map.groupBy(known.faults, (one) => one.group) : known.faults.reduce((found, one) => found.set(one.group, [...(found.get(one.group) ?? []), one]), new Map());
  for (const [name, members] of groups) $("fault").append(make("optgroup", { label: name }, ...members.map((one) => make("option", { value: known.faults.indexOf(one) }, one.text))));
  for (const lane of known.lanes) {
    const box = make("input", { type: "checkbox", checked: true, onchange: (event) => { event.target.checked ? hidden.delete(lane) : hidden.add(lane); timeline(true); } });
    $("lanes").append(make("label", { class: `lane ${lane}` }, box, LANES[lane] ?? lane));
  }
  list();
  requirements();
  listen("/api/console/events", take);
}

function list() {
  const wanted = $("find").value.trim().toLowerCase();
  const found = known.scenarios.filter((one) => !wanted || `${one.name} ${one.title}`.toLowerCase().includes(wanted));
  $("scenarios").replaceChildren(...found.map((one) => make("div", {
    role: "option", "aria-selected": String(one.name === picked), class: `option${one.attacker ? "" : " calm"}`, tabindex: "-1", "data-name": one.name,
    onclick: () => pick(one.name), ondblclick: launch,
  }, make("strong", {}, one.name), make("span", { class: "muted small" }, one.title))));
}
$("find").oninput = list;
$("scenarios").onkeydown = (event) => {
  const names = [...$("scenarios").children].map((one) => one.dataset.name);
  const at = names.indexOf(picked);
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    pick(names[Math.max(0, Math.min(names.length - 1, at + (event.key === "ArrowDown" ? 1 : -1)))]);
    $("scenarios").querySelector('[aria-selected="true"]')?.scrollIntoView({ block: "nearest" });
  }
  if (event.key === "Enter") launch();
};
function pick(name) {
  picked = name ?? null;
  const one = known.scenarios.find((scenario) => scenario.name === picked);
  for (const element of $("scenarios").children) element.setAttribute("aria-selected", String(element.dataset.name === picked));
  put($("about"), one?.summary ?? "");
  $("launch").disabled = !one;
  $("attacker").disabled = !one?.attacker;
}
async function launch() {
  if (!picked) return;
  const who = $("attacker").disabled ? "" : $("attacker").value;
  answer(await order("/api/console/input", { kind: "launch", scenario: picked, ...(who ? { attacker: who } : {}) }), `${picked} launched`);
}
$("launch").onclick = launch;
$("break").onclick = async () => {
  const fault = known.faults[Number($("fault").value)];
  answer(await order("/api/console/input", { kind: "fault", step: fault.step }), fault.text);
};
function answer(found, said) {
  put($("answer"), found.refused ? `Refused: ${found.refused}` : found.pending ? `Ordered; ${found.note}.` : `${said}.`);
  mark($("answer"), "wrong", Boolean(found.refused));
}

// -- time ----------------------------------------------------------------------------------------------------------

const clockOrder = async (what) => answer(await order("/api/console/clock", what), "");
$("run").onclick = () => clockOrder({ paused: view.state === "running" });
for (const button of document.querySelectorAll(".speed")) button.onclick = async () => { await clockOrder({ speed: Number(button.dataset.speed) }); if (view.state === "paused") clockOrder({ paused: false }); };
$("step").onclick = () => clockOrder({ step: Number($("step-by").value) });
$("to").oninput = () => { dragged = true; put($("to-text"), `${$("to").value} s`); };
$("rewind").onclick = async () => {
  const to = Number($("to").value);
  if (!await confirmed(`Back to ${to} s`, "The run is made again up to there, with the same inputs. What came after it is forgotten, and outside tools lose their connections.")) return;
  answer(await order("/api/console/rewind", { to }), `at ${to} s again`);
  dragged = false;
};
$("apply").onclick = async () => {
  const to = dragged ? Number($("to").value) : view.t;
  const level = Number($("sl").value);
  const usual = new Set(known.requirements.filter((one) => one.sl <= level).map((one) => one.id));
  const ticked = new Set([...document.querySelectorAll("#requirements input:checked")].map((one) => one.value));
  const add = [...ticked].filter((one) => !usual.has(one)), remove = [...usual].filter((one) => !ticked.has(one));
  if (!await confirmed(`SL ${level}${add.length ? ` with ${add.join(", ")}` : ""}${remove.length ? ` without ${remove.join(", ")}` : ""}`, `The run is made again up to ${to.toFixed(0)} s under these controls, with the same inputs.`)) return;
  const found = await order("/api/console/rewind", { to, sl: String(level), add, remove });
  answer(found, "other controls are in force");
  if (!found.refused) { known = await ask("/api/console"); requirements(); dragged = false; }
};
$("sl").onchange = () => { const level = Number($("sl").value); for (const box of document.querySelectorAll("#requirements input")) box.checked = Number(box.dataset.sl) <= level; };

function requirements() {
  put($("profile"), `${known.profile}, ${known.in_force.length} requirements`);
  const level = known.profile.match(/^SL ([0-4])$/);
  if (level) $("sl").value = level[1];
  $("requirements").replaceChildren(...known.requirements.map((one) => make("label", { class: "requirement" },
    make("input", { type: "checkbox", value: one.id, "data-sl": one.sl, checked: known.in_force.includes(one.id) }), make("strong", {}, one.id), ` ${one.title}`)));
}
$("people").ontoggle = async () => {
  if (!$("people").open) return;
  const found = await ask("/api/console/people");
  $("people-rows").replaceChildren(...(found.length ? found : [{ user: "nobody is asked", role: "", password: "", code: null }]).map((one) => make("tr", {},
    make("td", {}, one.user), make("td", { class: "muted" }, one.role), make("td", { class: "number" }, one.password ?? ""), make("td", { class: "number" }, one.code ? `${one.code}${one.lasts !== null ? ` (${one.lasts} s)` : ""}` : ""))));
};

// -- what is seen --------------------------------------------------------------------------------------------------

function take(next) {
  if (view !== null && next.t < view.t - 0.001) seen = { next: 0, events: [] };
  view = next;
  clock(view);
  put($("run"), view.state === "running" ? "Pause" : "Run");
  $("run").disabled = !["running", "paused"].includes(view.state);
  for (const button of document.querySelectorAll(".speed")) mark(button, "now", Number(button.dataset.speed) === view.speed && view.state === "running");
  $("failure").hidden = view.state !== "failed";
  put($("failure"), view.failure ? `The run ended with an error: ${view.failure}. Go back to a moment before it.` : "");
  $("to").max = Math.floor(view.t);
  if (!dragged) { $("to").value = Math.floor(view.t); put($("to-text"), `${Math.floor(view.t)} s`); }
  $("functions").replaceChildren(...Object.entries(view.functions).map(([name, there]) => make("span", { class: there ? "function" : "function lost" }, there ? name : `${name} lost`)),
    ...Object.entries(view.envelope).filter(([, inside]) => !inside).map(([name]) => make("span", { class: "function lost" }, `${name} unsafe`)));
  rows("launched", view.launched.toReversed(), (one) => [
    make("td", { class: "number" }, one.time.toFixed(0)), make("td", {}, make("strong", {}, one.name === "fault" ? one.title : one.name)),
    make("td", { class: "muted" }, one.stopped ? "stopped" : one.running ? `${one.done} done, ${one.refused} refused` : `over: ${one.done} done, ${one.refused} refused`),
    make("td", { class: "act" }, one.stoppable ? make("button", { type: "button", onclick: () => order("/api/console/input", { kind: "stop", launch: one.number }) }, "Stop") : null)]);
  rows("incidents", view.incidents.toReversed(), (one) => [
    make("td", {}, make("span", { class: `severity s${one.severity}` }, ["", "low", "medium", "high", "critical"][one.severity])),
    make("td", { class: "number" }, one.opened.toFixed(0)),
    make("td", {}, one.rules.join(", "), make("span", { class: "muted small block" }, `${one.alerts} alert${one.alerts === 1 ? "" : "s"} about ${one.subjects.join(", ") || "–"}${one.techniques.length ? `; ${one.techniques.join(" ")}` : ""}`)),
    make("td", { class: "muted" }, one.verdict === null ? "" : one.verdict ? "real" : "dismissed")]);
  put($("incident-count"), view.incidents.length ? String(view.incidents.length) : "");
  rows("blocked", view.blocked.toReversed(), (one) => [make("td", { class: "number" }, one.t.toFixed(1)), make("td", {}, one.flow, make("span", { class: "muted small block" }, `${one.link}: ${one.why}`))]);
  put($("blocked-count"), view.blocked_count ? String(view.blocked_count) : "");
  const stations = Object.entries(view.stations).map(([name, one]) => [name, one.up ? `${one.user ?? "nobody"}${one.locked ? ", locked" : ""}; ${one.alarms} alarms` : "off"]);
  const tools = view.connections.map((one) => [`tool ${one.number}`, `${one.sent} bytes in, ${one.received} out`]);
  const doors = known.attachments.map((one) => ["attached", one]);
  rows("stations", [...stations, ...doors, ...tools], ([name, text]) => [make("td", {}, make("strong", {}, name)), make("td", { class: "muted" }, text)]);
  if (view.events > seen.next) more(); else timeline(false);
}

function rows(id, members, cells) {
  const body = $(id), wanted = JSON.stringify(members);
  const empty = $(`no-${id}`);
  if (empty) empty.hidden = members.length > 0;
  if (body.dataset.shown === wanted) return;
  body.dataset.shown = wanted;
  body.replaceChildren(...members.map((one) => make("tr", {}, ...cells(one))));
}

async function more() {
  if (fetching) return;
  fetching = true;
  try {
    const begun = seen, found = await ask(`/api/console/timeline?from=${begun.next}`);
    if (begun === seen) {
      seen.next = found.next;
      seen.events.push(...found.events);
      if (seen.events.length > KEEP) seen.events.splice(0, seen.events.length - KEEP);
      timeline(found.events.length > 0);
    }
  } catch { /* the next view asks again */ } finally { fetching = false; }
}

let striped = 0;
function timeline(changed) {
  if (changed) {
    const shown = seen.events.filter((one) => !hidden.has(one.lane)).slice(-SHOWN).reverse();
    $("events").replaceChildren(...shown.map((one) => make("tr", { class: `${one.lane}${one.bad ? " bad" : ""}` },
      make("td", { class: "number" }, one.t.toFixed(1)), make("td", {}, make("span", { class: `dot ${one.lane}` }), one.kind), make("td", {}, one.source), make("td", { class: "what" }, one.text))));
  }
  if (!changed && performance.now() - striped < 900) return;
  striped = performance.now();
  const element = $("strip"), width = element.clientWidth || 600, lanes = known.lanes, step = 17, left = 92, right = 10;
  const height = lanes.length * step + 20, end = Math.max(view.t, 60);
  const x = (t) => left + (width - left - right) * t / end;
  const parts = [];
  lanes.forEach((lane, at) => {
    parts.push(svg("path", { class: "grid", d: `M${left} ${at * step + 11}H${width - right}` }));
    parts.push(svg("text", { class: "axis end", x: left - 8, y: at * step + 15 }, LANES[lane] ?? lane));
  });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) parts.push(svg("text", { class: `axis ${part === 1 ? "end" : part === 0 ? "start" : "middle"}`, x: x(end * part).toFixed(1), y: height - 3 }, `${(end * part).toFixed(0)} s`));
  const drawn = new Set();
  for (const one of seen.events) {
    const at = lanes.indexOf(one.lane), place = Math.round(x(one.t));
    if (hidden.has(one.lane) || drawn.has(`${at}:${place}`)) continue; // one dot a pixel says as much as a hundred
    drawn.add(`${at}:${place}`);
    parts.push(svg("rect", { class: `tick ${one.lane}${one.bad ? " bad" : ""}`, x: place - 1.5, y: at * step + 5, width: 3, height: 12 }));
  }
  element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  element.setAttribute("height", height);
  element.replaceChildren(...parts);
}

begin().catch((error) => put($("answer"), error.message));
