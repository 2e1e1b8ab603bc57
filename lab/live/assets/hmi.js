"use strict";
// An operator's station: the picture moves with the tags, the faceplate shows and commands one, the lists list.

const station = meta("lab-station");
const base = `/api/hmi/${station}`;
let known = null, view = null, chosen = null, series = { t: [], values: {} }, lastDrawn = 0, lastTouch = 0;
const KEEP = 3600;

const text = (tag, value) => {
  const about = known.tags[tag];
  if (value === null || value === undefined) return "–";
  return about.states[String(value)] ?? (about.bool ? (value ? "1" : "0") : value.toFixed(about.digits));
};
const stale = (tag) => view.stale.includes(known.tags[tag].plc);
const state = (tag, value) => {
  const about = known.tags[tag];
  if (about.kind === "pump") return value ? "running" : "stopped";
  if (about.kind === "valve" && about.bool) return value ? "open" : "closed";
  return null;
};

async function begin() {
  known = await ask(base);
  await history();
  for (const element of document.querySelectorAll("#mimic .choice")) {
    element.addEventListener("click", () => choose(element.dataset.tag));
    element.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(element.dataset.tag); }
    });
  }
  strips();
  listen(`${base}/events`, take);
}

// What the page missed: pens that only ever see new values would forget at every reload.
async function history() {
  const wanted = Object.keys(known.tags).filter((tag) => known.tags[tag].kind === "measurement");
  series = await ask(`${base}/trend?seconds=${KEEP}&tags=${wanted.slice(0, 64).join(",")}`);
}

function take(next) {
  const back = view !== null && next.t < view.t - 0.5;
  view = next;
  if (back) history().catch(() => {});
  clock(view);
  person();
  picture();
  alarms();
  remember();
  face();
  const ended = { failed: view.failure, ended: "The run has ended.", rewinding: "The instructor takes the run back …" }[view.state];
  const cover = view.up ? ended : `${station} is off.`;
  put($("cover"), cover ?? "");
  $("cover").hidden = !cover;
}

function remember() {
  const last = series.t.at(-1) ?? -1;
  if (view.t - last < 1) return;
  series.t.push(view.t);
  for (const [tag, values] of Object.entries(series.values)) values.push(stale(tag) ? null : view.values[tag]);
  if (series.t.length > KEEP) { series.t.shift(); for (const values of Object.values(series.values)) values.shift(); }
  if (performance.now() - lastDrawn > 900) draw();
}

// -- people --------------------------------------------------------------------------------------------------------

function person() {
  const user = view.user;
  put($("who"), !view.asks ? "no log-in asked" : user === null ? "nobody logged in" : `${user.name} (${user.role})${view.locked ? ", locked" : view.locks_in !== null && view.locks_in < 120 ? `, locks in ${view.locks_in} s` : ""}`);
  put($("seat"), view.seat ? "Leave the seat" : "Take the seat");
  $("seat").title = view.seat ? "The operator on shift comes back" : "The operator on shift steps aside";
  $("login").hidden = !view.asks || (user !== null && !view.locked);
  $("logout").hidden = !view.asks || user === null;
  put($("login"), view.locked ? "Unlock" : "Log in");
  document.body.classList.toggle("locked", view.asks && (user === null || view.locked));
}

$("seat").onclick = () => order(`${base}/input`, { kind: "seat", taken: !view.seat });
$("logout").onclick = () => order(`${base}/input`, { kind: "log_out" });
$("login").onclick = openLogin;

function openLogin() {
  if (!view?.asks) return;
  $("notice").hidden = !view.notice;
  put($("notice"), view.notice ?? "");
  $("code").hidden = $("code-label").hidden = !view.code;
  put($("login-answer"), "");
  $("card").open = false;
  $("password").value = $("code").value = "";
  $("login-dialog").showModal();
  $("user").focus();
}
$("login-cancel").onclick = () => $("login-dialog").close();
$("login-form").onsubmit = async (event) => {
  event.preventDefault();
  put($("login-answer"), "…");
  const answer = await order(`${base}/input`, { kind: "log_in", user: $("user").value, password: $("password").value, code: $("code").value || null });
  if (answer.done) { if (!view.seat) order(`${base}/input`, { kind: "seat", taken: true }); $("login-dialog").close(); }
  else put($("login-answer"), answer.refused ?? answer.note);
};
let carried = null;
$("card").ontoggle = async () => {
  if (!$("card").open) return;
  carried = await ask(`${base}/card`);
  put($("card-text"), carried.user ? `${carried.user}, password ${carried.password}${carried.code ? `, token shows ${carried.code}${carried.lasts !== null ? ` for ${carried.lasts} s` : ""}` : ""}` : "Nothing: this station asks nobody.");
};
$("card-use").onclick = async () => {
  carried = await ask(`${base}/card`);
  $("user").value = carried.user; $("password").value = carried.password; $("code").value = carried.code ?? "";
  $("login-go").focus();
};

// Whoever uses the screen keeps the session open, as at a real one; told once in ten seconds.
for (const kind of ["pointerdown", "keydown"]) addEventListener(kind, () => {
  if (view?.asks && view.seat && view.user && !view.locked && performance.now() - lastTouch > 10000) {
    lastTouch = performance.now();
    order(`${base}/input`, { kind: "touch" });
  }
});

// -- the picture ---------------------------------------------------------------------------------------------------

function worst(tag) {
  let found = null;
  for (const alarm of view.alarms) {
    if (alarm.state === "shelved" || (alarm.tag !== tag && alarm.tag !== known.tags[tag].plc)) continue;
    if (alarm.tag === known.tags[tag].plc && alarm.tag !== tag) continue; // told by being stale
    if (found === null || alarm.priority < found.priority) found = alarm;
  }
  return found;
}

function picture() {
  for (const element of document.querySelectorAll("#mimic [data-value]")) put(element, text(element.dataset.value, view.values[element.dataset.value]));
  for (const element of document.querySelectorAll("#mimic .choice")) {
    const tag = element.dataset.tag, value = view.values[tag];
    mark(element, "stale", value === null || stale(tag));
    mark(element, "chosen", tag === chosen);
    if (element.classList.contains("actuator")) {
      mark(element, "on", known.tags[tag].bool ? value === 1 : value > 1);
    }
    if (element.classList.contains("vessel")) {
      const { low, high, top, height } = element.dataset;
      const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
      const fill = element.querySelector(".fill");
      fill.setAttribute("height", Math.max(0, height * share - 2));
      fill.setAttribute("y", Number(top) + height * (1 - share));
      const pointer = element.querySelector(".pointer"), x = Number(pointer.dataset.x);
      const at = Number(top) + Number(height) - 6 - (height - 12) * share;
      pointer.setAttribute("d", `M${x} ${at}l-9 -6v12z`);
    }
  }
  for (const element of document.querySelectorAll("#mimic .mode")) {
    const auto = view.values[element.dataset.mode];
    put(element.querySelector("text"), auto === null ? "?" : auto ? "A" : "M");
    mark(element, "hand", auto === 0);
  }
  for (const element of document.querySelectorAll("#mimic .flag")) {
    const alarm = worst(element.dataset.flag);
    element.setAttribute("class", alarm === null ? "flag" : `flag raised p${alarm.priority} ${alarm.state}`);
    put(element.querySelector("text"), alarm === null ? "" : String(alarm.priority));
  }
  const standing = view.alarms.filter((one) => one.state === "unacknowledged");
  const first = standing[0];
  put($("banner"), first ? `${first.tag} ${first.level}${standing.length > 1 ? `, and ${standing.length - 1} more to acknowledge` : ""}` : view.stale.length ? `no fresh data from ${view.stale.join(", ")}` : "");
  $("banner").className = first ? `banner p${first.priority}` : view.stale.length ? "banner p2" : "banner";
}

// -- alarms --------------------------------------------------------------------------------------------------------

const STATES = { unacknowledged: "new", acknowledged: "seen", returned: "returned, not seen", shelved: "shelved" };

function alarms() {
  const rows = $("alarm-rows");
  $("no-alarms").hidden = view.alarms.length > 0;
  const open = view.alarms.filter((one) => one.state === "unacknowledged" || one.state === "returned").length;
  put($("alarm-count"), view.alarms.length ? `${view.alarms.length}, ${open} to acknowledge` : "");
  $("ack-all").disabled = !open;
  const wanted = JSON.stringify(view.alarms.map(({ key, state: one, until, standing }) => [key, one, until, standing]));
  if (rows.dataset.shown === wanted) return;
  rows.dataset.shown = wanted;
  const focused = document.activeElement?.dataset?.act;
  rows.replaceChildren(...view.alarms.map((alarm) => {
    const tag = known.tags[alarm.tag];
    const steps = known.responses[alarm.key];
    const shelved = alarm.state === "shelved";
    return make("tr", { class: `p${alarm.priority} ${alarm.state}`, title: steps ? `Procedure: ${steps.join(", ")}` : null },
      make("td", {}, make("span", { class: `priority p${alarm.priority}` }, String(alarm.priority))),
      make("td", { class: "number" }, time(alarm.raised)),
      make("td", {}, make("button", { class: "link", type: "button", onclick: () => tag && choose(alarm.tag) }, alarm.tag)),
      make("td", {}, alarm.level === "COMM" ? "no fresh data" : `${alarm.level}${tag?.about ? `, ${tag.about}` : ""}`),
      make("td", { class: "number" }, tag ? `${text(alarm.tag, alarm.value)} ${tag.unit}` : ""),
      make("td", {}, shelved ? `shelved to ${time(alarm.until)}` : STATES[alarm.state]),
      make("td", { class: "act" },
        alarm.state === "unacknowledged" || alarm.state === "returned" ? make("button", { type: "button", "data-act": `a${alarm.key}`, onclick: () => act({ kind: "acknowledge", alarm: alarm.key }) }, "Acknowledge") : null,
        make("button", { type: "button", "data-act": `s${alarm.key}`, onclick: () => act({ kind: "shelve", alarm: alarm.key, seconds: shelved ? 0 : 1800 }) }, shelved ? "Unshelve" : "Shelve 30 min")));
  }));
  if (focused) rows.querySelector(`[data-act="${CSS.escape(focused)}"]`)?.focus();
}

function time(t) {
  const start = new Date(view.civil.replace(" ", "T") + "Z").getTime() - view.t * 1000;
  return new Date(start + t * 1000).toISOString().slice(11, 19);
}

async function act(what) {
  const answer = await order(`${base}/input`, what);
  if (answer.refused) refused(answer.refused);
}
function refused(reason) {
  put($("banner"), `Refused: ${reason}`);
  if (/locked|logged in/.test(reason)) openLogin();
}
$("ack-all").onclick = () => act({ kind: "acknowledge" });

// -- the faceplate -------------------------------------------------------------------------------------------------

function choose(tag) {
  chosen = tag;
  const about = known.tags[tag];
  put($("face-tag"), tag);
  put($("face-about"), (Object.keys(about.states).length ? "state" : about.about) || { measurement: "measurement", pump: "pump", valve: "valve", switch: "status", number: "value" }[about.kind]);
  put($("face-answer"), "");
  $("face-body").hidden = false;
  $("face-trend").toggleAttribute("hidden", about.kind !== "measurement");
  put($("face-unit"), about.unit);
  $("face-controls").replaceChildren(...controls(tag));
  picture();
  face();
  draw();
}

function controls(tag) {
  const about = known.tags[tag];
  const parts = [];
  if (Object.keys(about.limits).length) parts.push(make("dl", { class: "limits" }, ...Object.entries(about.limits).flatMap(([level, limit]) => [make("dt", {}, level), make("dd", {}, `${limit} ${about.unit}`)])));
  if (about.auto) parts.push(group("Mode", choice(about.auto, "Automatic", 1), choice(about.auto, "By hand", 0)));
  if (about.command) {
    const by = known.tags[about.command];
    parts.push(by.bool
      ? group("Command by hand", choice(about.command, about.kind === "pump" ? "Start" : "Open", 1), choice(about.command, about.kind === "pump" ? "Stop" : "Close", 0))
      : entry(about.command, "Command by hand"));
  }
  for (const setpoint of about.setpoints) parts.push(entry(setpoint, known.tags[setpoint].about || setpoint));
  if (about.writable && !about.auto) parts.push(about.bool ? group("Set", choice(tag, "1", 1), choice(tag, "0", 0)) : entry(tag, "Set"));
  if (!parts.length && about.kind !== "measurement") parts.push(make("p", { class: "muted small" }, "Read only."));
  parts.push(make("details", {}, make("summary", {}, "All that this controller takes"), make("div", { class: "writable" },
    ...Object.entries(known.tags).filter(([, one]) => one.plc === about.plc && one.writable).map(([name]) => make("button", { type: "button", class: "link", onclick: () => choose(name) }, name)))));
  return parts;
}

const group = (title, ...inside) => make("fieldset", {}, make("legend", {}, title), ...inside);
const choice = (tag, label, value) => make("button", { type: "button", "data-sets": tag, "data-to": value, onclick: () => write(tag, value, label) }, label);

function entry(tag, title) {
  const about = known.tags[tag];
  const input = make("input", { type: "number", step: "any", min: about.range?.[0], max: about.range?.[1], "aria-label": title, "data-entry": tag });
  const send = () => { if (input.value !== "" && Number.isFinite(Number(input.value))) write(tag, Number(input.value), `${input.value} ${about.unit}`); };
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") send(); });
  return group(title, make("span", { class: "now", "data-now": tag }), input, make("span", { class: "muted" }, about.unit), make("button", { type: "button", onclick: send }, "Set"));
}

function face() {
  if (chosen === null) return;
  const value = view.values[chosen];
  put($("face-value"), state(chosen, value) ?? text(chosen, value));
  mark($("face-value"), "stale", value === null || stale(chosen));
  for (const element of $("face-controls").querySelectorAll("[data-sets]")) {
    const now = view.values[element.dataset.sets] === Number(element.dataset.to);
    mark(element, "now", now);
    element.setAttribute("aria-pressed", String(now));
  }
  for (const element of $("face-controls").querySelectorAll("[data-now]")) put(element, text(element.dataset.now, view.values[element.dataset.now]));
}

async function write(tag, value, label) {
  if (!await confirmed(`${chosen}: ${label}`, `${tag} is ${text(tag, view.values[tag])} and will be ${text(tag, value)} ${known.tags[tag].unit}.`)) return;
  put($("face-answer"), "…");
  const answer = await order(`${base}/input`, { kind: "write", tag, value });
  put($("face-answer"), answer.refused ? `Refused: ${answer.refused}` : answer.pending ? `Ordered; ${answer.note}.` : `${tag} written.`);
  mark($("face-answer"), "wrong", Boolean(answer.refused));
  if (answer.refused) refused(answer.refused);
}

// -- trends --------------------------------------------------------------------------------------------------------

function strips() {
  $("trend-rows").replaceChildren(...known.trends.map((tag) => make("div", { class: "trend" },
    make("button", { class: "link", type: "button", onclick: () => choose(tag) }, tag), make("span", { class: "number", "data-last": tag }), make("span", { class: "muted small" }, known.tags[tag].unit),
    svg("svg", { class: "chart", "data-pen": tag, role: "img", "aria-label": `Trend of ${tag}` }))));
}

function draw() {
  lastDrawn = performance.now();
  const seconds = Number($("span").value);
  const pen = (tag) => ({ t: series.t, values: series.values[tag] ?? [] });
  const options = (tag) => ({ scale: known.tags[tag].scale, limits: known.tags[tag].limits, digits: known.tags[tag].digits, now: view?.t ?? 0, setpoints: known.tags[tag].setpoints.map((one) => view?.values[one] ?? null) });
  for (const element of document.querySelectorAll("[data-pen]")) chart(element, pen(element.dataset.pen), { ...options(element.dataset.pen), seconds, axis: element.dataset.pen === known.trends.at(-1) });
  for (const element of document.querySelectorAll("[data-last]")) put(element, view ? text(element.dataset.last, view.values[element.dataset.last]) : "–");
  if (chosen !== null && known.tags[chosen].kind === "measurement") chart($("face-trend"), pen(chosen), { ...options(chosen), seconds: 600 });
}
$("span").onchange = draw;
addEventListener("resize", () => known && draw());

addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, dialog") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "a") act({ kind: "acknowledge" });
  if (event.key === "l" && view?.asks && (view.user === null || view.locked)) { event.preventDefault(); openLogin(); }
  if (event.key === "Escape") { chosen = null; $("face-body").hidden = true; put($("face-tag"), "Faceplate"); put($("face-about"), "Choose something in the picture: with the mouse, or Tab and Enter."); picture(); }
});

begin().catch((error) => put($("banner"), error.message));
