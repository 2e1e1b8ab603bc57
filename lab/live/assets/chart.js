"use strict";
// A trend as SVG: one pen, its limits, its own scale. Gaps are where the station had no fresh value.

function chart(element, series, { scale, limits = {}, digits = 1, seconds = 600, now = 0, setpoints = [], axis = true }) {
  const width = element.clientWidth || 300, height = element.clientHeight || 90;
  const left = 44, right = 8, top = 7, bottom = axis ? 16 : 6, small = height < 80;
  const seen = series.values.filter((one, at) => Number.isFinite(one) && series.t[at] >= now - seconds);
  let [low, high] = seen.length ? [Math.min(...seen), Math.max(...seen)] : (scale ?? [0, 1]);
  for (const limit of Object.values(limits)) {
    // A limit that is near is worth seeing; one that is far would only flatten the line.
    const room = (high - low) || Math.abs(high) || 1;
    if (limit > low - room && limit < high + room) { low = Math.min(low, limit); high = Math.max(high, limit); }
  }
  const least = scale ? (scale[1] - scale[0]) * 0.02 : 10 ** -digits * 4;
  if (high - low < least) { const middle = (high + low) / 2; low = middle - least / 2; high = middle + least / 2; }
  const room = (high - low) * 0.08;
  low -= room; high += room;
  const x = (t) => left + (width - left - right) * (1 - (now - t) / seconds);
  const y = (value) => top + (height - top - bottom) * (1 - (value - low) / (high - low));
  const parts = [];
  for (const share of small ? [0, 1] : [0, 0.5, 1]) {
    const value = low + (high - low) * share;
    parts.push(svg("path", { class: "grid", d: `M${left} ${y(value).toFixed(1)}H${width - right}` }));
    parts.push(svg("text", { class: "axis end", x: left - 5, y: (y(value) + 3.5).toFixed(1) }, value.toFixed(digits)));
  }
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const at = left + (width - left - right) * part;
    parts.push(svg("path", { class: "grid", d: `M${at.toFixed(1)} ${top}V${height - bottom}` }));
    if (!axis || (width < 340 && part % 0.5)) continue;
    const ago = seconds * (1 - part) / 60;
    parts.push(svg("text", { class: `axis ${part === 1 ? "end" : part === 0 ? "start" : "middle"}`, x: at.toFixed(1), y: height - 3 }, ago ? `−${+ago.toFixed(1)} min` : "now"));
  }
  for (const [level, limit] of Object.entries(limits)) {
    if (limit <= low || limit >= high) continue;
    parts.push(svg("path", { class: "limit", d: `M${left} ${y(limit).toFixed(1)}H${width - right}` }));
    if (!small) parts.push(svg("text", { class: "axis limit-name end", x: width - right - 2, y: (y(limit) - 2).toFixed(1) }, level));
  }
  for (const value of setpoints) {
    if (value === null || value <= low || value >= high) continue;
    parts.push(svg("path", { class: "setpoint", d: `M${left} ${y(value).toFixed(1)}H${width - right}` }));
  }
  let d = "", down = false;
  series.t.forEach((t, at) => {
    const value = series.values[at];
    if (!Number.isFinite(value) || t < now - seconds) { down = false; return; }
    d += `${down ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(1)}`;
    down = true;
  });
  if (d) parts.push(svg("path", { class: "pen", d }));
  element.setAttribute("viewBox", `0 0 ${width} ${height}`);
  element.replaceChildren(...parts);
}
