// The status page: asks /api/status once a second and draws it. Everything from devices goes in as text, never as markup.
"use strict";
const $ = (id) => document.getElementById(id);
const KEEP = 300; // points in the chart: five minutes
const COLOURS = ["#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#ec4899", "#14b8a6", "#84cc16"];
const history = new Map(); // device: its powers, one a second, the newest last
let missed = 0;

function element(tag, text, className) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (className) node.className = className;
  return node;
}
function watts(w) { return w === null ? "–" : Math.abs(w) >= 10000 ? (w / 1000).toFixed(1) + " kW" : w + " W"; }
function signed(w) { return (w > 0 ? "+" : "") + watts(w); }
function wattHours(wh) { return wh === null ? "–" : wh >= 100000 ? (wh / 1000).toFixed(1) + " kWh" : wh + " Wh"; }
function clock(us) { return new Date(us / 1000).toLocaleTimeString(); }
function band(low, high) {
  if (low === null && high === null) return "free";
  if (low !== null && low === high) return signed(low);
  return low === null ? "up to " + signed(high) : signed(low) + (high === null ? " and up" : " to " + signed(high));
}
function rows(table, list, cells, empty) {
  const body = $(table).tBodies[0];
  body.replaceChildren(...list.map((item) => {
    const row = element("tr");
    cells(item).forEach(([text, className], n) => {
      const cell = element("td", text, className);
      cell.dataset.label = $(table).tHead.rows[0].cells[n].textContent; // on a phone each row is a card
      row.append(cell);
    });
    return row;
  }));
  if (!list.length) { const cell = element("td", empty, "empty"); cell.colSpan = 8; body.append(element("tr")); body.lastChild.append(cell); }
}
function tiles(s) {
  const made = [
    [s.connection_power_w === null ? "–" : signed(s.connection_power_w), "at the grid connection"],
    [s.commands.filter((c) => c.in_force).length, s.commands.filter((c) => c.in_force).length === 1 ? "command in force" : "commands in force"],
    [s.evidence.readings.toLocaleString(), "readings stored"],
    [s.evidence.sealed.toLocaleString(), "statements sealed"],
    [s.evidence.acknowledged.toLocaleString(), "acknowledged by the platform"],
    ...(s.evidence.merged ? [[s.evidence.merged.toLocaleString(), "readings merged to save space"]] : []),
    [`${s.settlement.windows_countersigned} / ${s.settlement.windows_closed}`, "windows signed by both sides"],
  ];
  $("tiles").replaceChildren(...made.map(([value, label]) => {
    const tile = element("div", undefined, "tile");
    tile.append(element("b", value), element("span", label));
    return tile;
  }));
}
function chart(s) {
  const seen = s.devices.map((d) => [d.device_id, d.power_w]);
  for (const [id, power] of seen) {
    if (!history.has(id)) history.set(id, []);
    const line = history.get(id);
    line.push(power);
    if (line.length > KEEP) line.shift();
  }
  const all = [...history.values()].flat().filter((p) => p !== null);
  const high = Math.max(500, ...all), low = Math.min(-500, ...all);
  const y = (p) => 10 + (200 * (high - p)) / (high - low);
  for (const [id, p] of [["high", high], ["zero", 0], ["low", low]]) $(id).style.top = `${y(p)}px`;
  $("high").textContent = watts(Math.round(high));
  $("low").textContent = watts(Math.round(low));
  const svg = $("chart"), space = "http://www.w3.org/2000/svg";
  const zero = document.createElementNS(space, "line");
  for (const [k, v] of Object.entries({ x1: 0, x2: 900, y1: y(0), y2: y(0), stroke: "currentColor", "stroke-opacity": 0.35 })) zero.setAttribute(k, v);
  const lines = [...history.entries()].map(([id, line], n) => {
    const path = document.createElementNS(space, "polyline");
    const from = KEEP - line.length;
    path.setAttribute("points", line.map((p, i) => p === null ? null : `${(3 * (from + i)).toFixed(1)},${y(p).toFixed(1)}`).filter(Boolean).join(" "));
    path.setAttribute("fill", "none");
    path.setAttribute("stroke", COLOURS[n % COLOURS.length]);
    path.setAttribute("stroke-width", "2");
    path.setAttribute("vector-effect", "non-scaling-stroke");
    return path;
  });
  svg.replaceChildren(zero, ...lines);
  $("legend").replaceChildren(...[...history.keys()].map((id, n) => {
    const item = element("span"), box = element("i");
    box.style.background = COLOURS[n % COLOURS.length];
    item.append(box, id);
    return item;
  }));
}
function show(s) {
  document.title = `${s.name}: ${s.verdict}`;
  $("verdict").className = s.verdict;
  $("name").textContent = s.name;
  $("sentence").textContent = s.stopped_by && !s.sentence.includes("STOP") ? `STOP was pressed (${s.stopped_by}). ${s.sentence}` : s.safe_mode ? `Safe mode: ${s.safe_mode}` : s.sentence;
  $("clear").hidden = !s.stopped_by;
  $("stop").hidden = !!s.stopped_by;
  tiles(s);
  chart(s);
  rows("devices", s.devices, (d) => [
    [d.device_id, ""], [d.link === "online" ? "online" : `${d.link}: ${d.detail}`, d.link === "online" ? "" : "bad"], [signed(d.power_w), "n"],
    [d.state_of_charge_percent === null ? "" : d.state_of_charge_percent + " %", "n"], [band(d.lowest_w, d.highest_w), ""],
    [d.reason || d.vehicle, ""], [wattHours(d.import_wh), "n"], [wattHours(d.export_wh), "n"],
  ], "No devices are configured.");
  rows("commands", s.commands, (c) => [
    [c.text, c.in_force ? "force" : ""], [c.state, ""], [clock(c.start_us), ""], [clock(c.end_us), ""], [c.reason, ""],
  ], "No commands.");
  const problems = s.problems.map((p) => element("li", `${p.subject}: ${p.sentence}`, p.severity));
  $("problems").replaceChildren(...(problems.length ? problems : [element("li", "Nothing.", "empty")]));
  $("parts").replaceChildren(...s.parts.map((p) => element("li", `${p.name}: ${p.state}. ${p.detail}`, p.ok ? "" : "trouble")));
  $("foot").textContent = `v2g-gateway ${s.version} · ${s.gateway_id || "no identity yet"} · incarnation ${s.incarnation} · clock ${s.clock.quality} · up ${Math.round(s.uptime_s)} s`;
}
async function refresh() {
  try {
    const answer = await fetch("/api/status", { signal: AbortSignal.timeout(3000) });
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    show(await answer.json());
    missed = 0;
  } catch (error) {
    missed += 1;
    if (missed > 2) {
      $("verdict").className = "trouble";
      $("sentence").textContent = "The gateway does not answer. What is below is old.";
    }
  }
  setTimeout(refresh, 1000);
}
// What was before this page was opened; without it the chart begins now.
async function begin() {
  try {
    const answer = await fetch("/api/history", { signal: AbortSignal.timeout(3000) });
    if (answer.ok) for (const [id, line] of Object.entries((await answer.json()).power_w)) history.set(id, line);
  } catch (error) { /* the status says that nobody answers */ }
  refresh();
}
// Who presses STOP must not believe in it when it did not arrive.
async function press(path, what) {
  try {
    const answer = await fetch(path, { method: "POST", headers: { "X-V2G-Gateway": "status page" }, signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
  } catch (error) {
    alert(`${what} did NOT reach the gateway (${error.message}). Press again, or use the command line: v2g-gateway ${path.replace("/api/", "")}`);
  }
}
// STOP acts at once; giving power back asks first.
$("stop").addEventListener("click", () => press("/api/stop", "STOP"));
$("clear").addEventListener("click", () => { if (confirm("Let the gateway control the devices again?")) press("/api/clear-stop", "Clear STOP"); });
begin();
