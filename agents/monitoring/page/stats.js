// Draws what /stats.json returns, every two seconds while the page is visible. Durations count on between two answers.
const EVERY_MS = 2000;
const at = (id) => document.getElementById(id);
let latest = null, answeredAt = 0, failing = false;

function element(name, attributes = {}, ...children) {
  const made = name in SVG_NAMES ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
const SVG_NAMES = { svg: 1, rect: 1, path: 1, line: 1, text: 1, title: 1 };

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds), minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}
const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
const clock = (text) => new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

const WIDE = 420, HIGH = 120, LEFT = 34, BOTTOM = 18;
function nice(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1)));
  return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= most);
}
function frame(items, top, label) {
  const svg = element("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const y = yOf(share * top, top);
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDE, y1: y, y2: y }));
    svg.append(element("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, short(share * top)));
  }
  svg.append(element("text", { x: LEFT, y: HIGH - 3 }, clock(items[0].at)));
  svg.append(element("text", { x: WIDE, y: HIGH - 3, "text-anchor": "end" }, "now"));
  return svg;
}
const short = (n) => (n >= 10000 ? `${Math.round(n / 1000)}k` : Number.isInteger(n) ? n : n.toFixed(1));
const yOf = (value, top) => HIGH - BOTTOM - (value / top) * (HIGH - BOTTOM - 8);
// Always ten minutes wide: the history of a node that has just started fills it from the right.
const SPAN = 120;
const padded = (history) => {
  const items = history.items, first = new Date(items[0].at).getTime();
  const before = Array.from({ length: Math.max(0, SPAN - items.length) }, (_, n, all = Math.max(0, SPAN - items.length)) => (
    { at: new Date(first - (all - n) * history.bucket_s * 1000).toISOString(), done: 0, failed: 0, used: 0, waiting: null }));
  return [...before, ...items];
};

function bars(items, perMinute) {
  const top = nice(Math.max(...items.map((i) => (i.done + i.failed) * perMinute)));
  const svg = frame(items, top, "Attempts per minute over the last ten minutes");
  const step = (WIDE - LEFT) / items.length;
  items.forEach((item, n) => {
    const x = LEFT + n * step, done = yOf(item.done * perMinute, top), failed = yOf((item.done + item.failed) * perMinute, top);
    const title = () => element("title", {}, `${clock(item.at)}: ${item.done} completed, ${item.failed} failed in 5 s`);
    if (item.done) svg.append(element("rect", { class: "mark-done", x, y: done, width: step * 0.85, height: yOf(0, top) - done }, title()));
    if (item.failed) svg.append(element("rect", { class: "mark-failed", x, y: failed, width: step * 0.85, height: done - failed }, title()));
  });
  return svg;
}
function line(items, value, top, label) {
  const svg = frame(items, top, label);
  const step = (WIDE - LEFT) / (items.length - 1);
  const points = items.map((item, n) => [LEFT + n * step, value(item)]).filter(([, v]) => v !== null).map(([x, v]) => [x, yOf(v, top)]);
  if (points.length > 1) {
    const path = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L");
    svg.append(element("path", { class: "mark-area", d: `M${points[0][0]},${yOf(0, top)}L${path}L${points.at(-1)[0]},${yOf(0, top)}Z` }));
    svg.append(element("path", { class: "mark-line", d: `M${path}` }));
  }
  return svg;
}
function share(fraction) {
  const svg = element("svg", { viewBox: "0 0 200 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(element("rect", { class: "track", width: 200, height: 10, rx: 3 }));
  svg.append(element("rect", { class: fraction > 0.9 ? "mark-failed" : "mark-done", width: Math.min(1, fraction) * 200, height: 10, rx: 3 }));
  return svg;
}
function range(kind, longest) {
  // Logarithmic, from a millisecond to the largest p99 of any kind, so that short and long kinds can be compared.
  const low = Math.log10(0.001), high = Math.log10(Math.max(longest, 0.01));
  const x = (s) => ((Math.log10(Math.max(s, 0.001)) - low) / (high - low)) * 198 + 1;
  const svg = element("svg", { viewBox: "0 0 200 12", role: "img", "aria-label": `from ${duration(kind.p50_s)} to ${duration(kind.p99_s)}` });
  svg.append(element("rect", { class: "track", y: 3, width: 200, height: 6, rx: 3 }));
  svg.append(element("rect", { class: "mark-done", x: x(kind.p50_s), y: 3, width: Math.max(2, x(kind.p99_s) - x(kind.p50_s)), height: 6, rx: 2 }));
  svg.append(element("line", { class: "tick", x1: x(kind.p90_s), x2: x(kind.p90_s), y1: 1, y2: 11 }));
  return svg;
}

function cell(content, kind = "") {
  return element("td", kind ? { class: kind } : {}, content);
}
function drawRunning() {
  const since = (performance.now() - answeredAt) / 1000;
  const rows = latest.running.map((task) => {
    const runs = task.runs_s + (failing ? 0 : since);
    return element("tr", {}, cell(task.id, "id"), cell(task.name), cell(count(task.attempt), "number"), cell(duration(runs), "number"),
      cell(task.timeout_s ? share(runs / task.timeout_s) : "–", "picture"));
  });
  at("running").tBodies[0].replaceChildren(...rows);
  at("running").hidden = rows.length === 0;
  at("nothing-runs").hidden = rows.length > 0;
}
function drawKinds() {
  const longest = Math.max(0.01, ...latest.kinds.map((k) => k.p99_s ?? 0));
  at("kinds").tBodies[0].replaceChildren(...latest.kinds.map((k) => {
    const failed = cell(count(k.failed), k.failed ? "number failures" : "number");
    failed.title = Object.entries(k.causes).map(([cause, n]) => `${cause}: ${n}`).join(", ");
    return element("tr", {}, cell(k.name), cell(count(k.done), "number"), failed, cell(count(k.retried), "number"), cell(duration(k.p50_s), "number"),
      cell(duration(k.p90_s), "number"), cell(duration(k.p99_s), "number"), cell(k.p50_s === null ? "none completed" : range(k, longest), "picture"));
  }));
}
function draw() {
  const s = latest, items = padded(s.history);
  document.title = `${s.node} · Headrace node`;
  at("node").textContent = s.node;
  at("about").textContent = `Headrace ${s.version} · up ${duration((new Date(s.at) - new Date(s.started_at)) / 1000)} · boot ${s.boot.slice(0, 8)} · pid ${s.pid}`;
  at("state").className = s.state.replace(" ", "-");
  at("state-text").textContent = s.state;
  at("reasons").hidden = s.reasons.length === 0;
  at("reasons").textContent = s.reasons.join("\n");
  at("waits").hidden = s.waits.length === 0;
  at("waits").textContent = s.waits.map((w) => `${w.text}, since ${clock(w.since)}`).join("\n");
  at("slots").textContent = `${s.slots.used} of ${s.slots.total}`;
  at("slot-row").replaceChildren(...Array.from({ length: Math.min(s.slots.total, 128) }, (_, n) => element("i", n < s.slots.used ? { class: "used" } : {})));
  at("high").textContent = count(s.waiting.high);
  at("normal").textContent = count(s.waiting.normal);
  const total = (field) => s.kinds.reduce((sum, k) => sum + k[field], 0);
  at("done").textContent = count(total("done"));
  at("done-more").textContent = `${count(total("failed"))} failed, ${count(total("retried"))} retries`;
  at("rate").replaceChildren(bars(items, 60 / s.history.bucket_s));
  at("used").replaceChildren(line(items, (i) => i.used, s.slots.total, "Slots in use over the last ten minutes"));
  at("waiting").replaceChildren(line(items, (i) => i.waiting, nice(Math.max(...items.map((i) => i.waiting ?? 0))), "Tasks waiting over the last ten minutes"));
  at("partitions").replaceChildren(...Object.entries(s.partitions).flatMap(([topic, numbers]) => [element("dt", {}, topic), element("dd", {}, numbers.join(", ") || "none")]));
  drawRunning();
  drawKinds();
}

async function refresh() {
  try {
    const answer = await fetch("/stats.json", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    latest = await answer.json();
    answeredAt = performance.now();
    failing = false;
    draw();
  } catch (error) {
    failing = true;
    at("state").className = "lost";
    at("state-text").textContent = latest ? "no answer" : `no answer: ${error.message}`;
  }
}
async function refreshRepeatedly() {
  if (!document.hidden) await refresh();
  setTimeout(refreshRepeatedly, EVERY_MS);
}
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => {
  if (!latest) return;
  at("fresh").textContent = `updated ${Math.round((performance.now() - answeredAt) / 1000)} s ago`;
  drawRunning();
}, 1000);
refreshRepeatedly();
