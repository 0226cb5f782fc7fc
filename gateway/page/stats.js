// The statistics page: loads /stats/…, draws charts with Plotly, and refreshes them every ten seconds.

import { Problem, call } from "./api.js";
import { byId, el, span as duration } from "./dom.js";

const REFRESH_MS = 10_000;
const HOUR = 3_600_000, DAY = 24 * HOUR;
const BUCKETS = { minute: "Minute", hour: "Hour", day: "Day", week: "Week", month: "Month" };
const SPLITS = { "": "Nothing", name: "Kind", node: "Node" };
const SPANS = { "last hour": HOUR, "last 6 hours": 6 * HOUR, "last day": DAY, "last week": 7 * DAY,
  "last 30 days": 30 * DAY, "last year": 365 * DAY, "all time": Infinity };
const DEFAULT_SPAN = { minute: "last hour", hour: "last day", day: "last 30 days", week: "last year", month: "all time" };
const LENGTHS = { minute: 60_000, hour: HOUR, day: DAY, week: 7 * DAY };
// Okabe and Ito's colours without yellow: people with colour blindness can tell them apart.
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c8c", "#7a5cc0"];
const ON_DARK = ["#56b4e9", "#e69f00", "#00b386", "#cc79a7", "#0072b2", "#d55e00", "#8c8c8c", "#a78bdb"];
const MOST_TICKS = 8;
const dark = matchMedia("(prefers-color-scheme: dark)");

// The colour index of each kind and node: it keeps its colour, whatever else a chart shows.
const colourIndex = { name: new Map(), node: new Map() };

const chosen = { bucket: "minute", by: "", name: "", span: DEFAULT_SPAN.minute };

function theme() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  return { ink: value("--ink"), muted: value("--muted"), line: value("--line"), card: value("--card"), good: value("--good"), bad: value("--bad") };
}

function colour(field, key) {
  if (!field) return undefined;
  if (!colourIndex[field].has(key)) colourIndex[field].set(key, colourIndex[field].size);
  const set = dark.matches ? ON_DARK : COLOURS;
  return set[colourIndex[field].get(key) % set.length];
}

function layout(more = {}) {
  const c = theme();
  const axis = { gridcolor: c.line, linecolor: c.line, zerolinecolor: c.line, tickfont: { color: c.muted }, automargin: true };
  const { yaxis = {}, ...rest } = more;
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family: "system-ui, sans-serif", size: 12, color: c.ink },
    margin: { l: 8, r: 8, t: 8, b: 8 }, colorway: dark.matches ? ON_DARK : COLOURS, hovermode: "x unified", hoverlabel: { bgcolor: c.card, bordercolor: c.line, font: { color: c.ink } },
    legend: { orientation: "h", y: -0.18, font: { color: c.muted } },
    xaxis: { ...axis, type: "date", ...shownRange() }, yaxis: { ...axis, rangemode: "tozero", ...yaxis }, ...rest };
}

/** The whole time range, so that a single point is shown at its place in it. */
function shownRange() {
  const length = SPANS[chosen.span];
  const end = Date.now() + (LENGTHS[chosen.bucket] || 0);
  return length === Infinity ? {} : { range: [new Date(Date.now() - length).toISOString(), new Date(end).toISOString()] };
}

/** The rows, with zeros where buckets are missing between them. */
function filled(rows, value) {
  const length = LENGTHS[chosen.bucket];
  if (!length || rows.length < 2) return rows;
  const found = [];
  for (const row of rows) {
    const last = found.length ? Date.parse(found.at(-1).bucket) : null;
    if (last !== null && Date.parse(row.bucket) - last > length) {
      const zero = (at) => ({ bucket: new Date(at).toISOString(), [value]: 0 });
      found.push(zero(last + length), zero(Date.parse(row.bucket) - length));
    }
    found.push(row);
  }
  return found;
}

/** Draws traces, or a note that there is no data. */
function draw(id, traces, more) {
  const at = byId(id);
  if (!traces.some((t) => t.x.length)) {
    window.Plotly.purge(at);
    at.replaceChildren(el("p", { class: "empty" }, "no data in this time range"));
    return;
  }
  at.querySelector(".empty")?.remove();
  window.Plotly.react(at, traces, layout({ showlegend: traces.length > 1, ...more }), { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d"] });
}

/** Rows grouped by a field, in the order in which its values first appear. */
function groups(rows, field) {
  const found = new Map();
  for (const row of rows) {
    const key = field ? row[field] || "(none)" : "";
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(row);
  }
  return found;
}

function bars(rows, value, name, color) {
  const shown = rows.filter((r) => r[value]);
  return { type: "bar", x: shown.map((r) => r.bucket), y: shown.map((r) => r[value]), name, hovertemplate: "%{y}", marker: { color }, ...width() };
}

const width = () => (LENGTHS[chosen.bucket] ? { width: LENGTHS[chosen.bucket] * 0.8, offset: 0 } : {});

function line(rows, value, name, color, more = {}) {
  const shown = rows.filter((r) => r[value] !== null);
  return { type: "scatter", mode: "lines+markers", x: shown.map((r) => r.bucket), y: shown.map((r) => r[value]), name,
    marker: { size: shown.length < 3 ? 9 : 5, color }, ...more };
}

function query(more = {}) {
  const length = SPANS[chosen.span];
  const since = length === Infinity ? {} : { since: new Date(Date.now() - length).toISOString() };
  const name = chosen.name ? { name: chosen.name } : {};
  return { bucket: chosen.bucket, ...since, ...name, ...more };
}

const address = (path, parameters) => `/stats/${path}?${new URLSearchParams(parameters)}`;

/** All rows, from all pages. */
async function rows(path, parameters) {
  const found = [];
  let cursor = null;
  do {
    const page = await call(address(path, { ...parameters, limit: 10_000, ...(cursor ? { cursor } : {}) }));
    found.push(...page.items);
    cursor = page.next;
  } while (cursor);
  return found;
}

function stacked(counted, value, nothing) {
  return [...groups(counted, chosen.by)].map(([key, of]) => bars(of, value, key || nothing, colour(chosen.by, key)));
}

function drawCounts(counted, ends) {
  const c = theme();
  draw("completed", stacked(counted, "completed", "completed"), { barmode: "stack" });
  draw("ends", [line(filled(ends, "received"), "received", "received"), bars(ends, "failed", "failed", c.bad),
    bars(ends, "cancelled", "cancelled", c.muted)], { barmode: "stack" });
  draw("bytes", stacked(counted, "bytes", "bytes"), { barmode: "stack", yaxis: { tickformat: ".3~s" } });
  draw("starts", [...groups(counted, chosen.by)].map(([key, of]) => line(of, "average_starts", key || "starts", colour(chosen.by, key))), { yaxis: { rangemode: "normal" } });
}

function drawNodes(counted) {
  const own = [...groups(counted.filter((r) => r.node), "node")];
  draw("nodes", own.map(([node, of]) => line(filled(of, "completed"), "completed", node, colour("node", node))));
  draw("failures", own.map(([node, of]) => line(of, "failure_rate", node, colour("node", node))), { yaxis: { tickformat: ".1%", range: [0, 1] } });
}

function drawPercentiles(id, timed, measure) {
  const split = chosen.by === "name";
  const traces = [];
  for (const [key, of] of groups(timed, split ? "name" : "")) {
    for (const p of split ? [50, 99] : [50, 90, 99]) {
      const value = `${measure}_ms_p${p}`;
      const text = of.filter((r) => r[value] !== null).map((r) => duration(r[value]));
      traces.push(line(of, value, `${key} p${p}`.trim(), colour(split && "name", key), { text, hovertemplate: "%{text}", line: { dash: p === 99 ? "dot" : "solid" } }));
    }
  }
  const c = theme();
  const ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000, 120_000, 300_000, 600_000, 1_800_000, HOUR, 3 * HOUR, 10 * HOUR];
  const drawn = traces.map((t) => ({ ...t, y: t.y.map((v) => Math.max(v, 1)) }));
  const all = drawn.flatMap((t) => t.y); // the margin keeps at least one tick in view when all values are close together
  const range = [Math.log10(Math.min(...all) / 2.5), Math.log10(Math.max(...all) * 2.5)];
  const within = ticks.filter((ms) => Math.log10(ms) >= range[0] && Math.log10(ms) <= range[1]);
  const shown = within.filter((_, i) => i % Math.ceil(within.length / MOST_TICKS) === 0); // more would overlap
  draw(id, drawn, { yaxis: { type: "log", rangemode: "normal", range, tickvals: shown, ticktext: shown.map(duration), gridcolor: c.line } });
  byId(`${id}-by`).textContent = chosen.bucket === "minute" ? "by the hour" : "";
}

function showFigures(s) {
  const size = new Intl.NumberFormat([], { notation: "compact", maximumFractionDigits: 1 });
  const whole = new Intl.NumberFormat();
  const figures = [["pending now", s.pending], ["received", s.received], ["completed", s.completed], ["failed", s.failed],
    ["cancelled", s.cancelled], ["average starts", s.average_starts ?? "–"], ["bytes stored", size.format(s.bytes)]];
  if (s.late) figures.push(["too late to count", s.late]);
  if (s.undecodable) figures.push(["unreadable records", s.undecodable]);
  byId("figures").replaceChildren(...figures.map(([name, value]) =>
    el("div", { class: name === "failed" && value ? "figure bad" : "figure" }, el("b", {}, typeof value === "number" ? whole.format(value) : value), el("span", {}, name))));
}

async function showAudit(audit) {
  const box = byId("audit"), findings = byId("findings");
  if (!audit) {
    box.className = "card wide";
    byId("verdict").textContent = "No audit yet.";
    findings.hidden = true;
    return;
  }
  const wrong = audit.lost_count + audit.repeated_count + audit.unreceived_count;
  const bad = wrong || audit.tables_agree === false;
  box.className = `card wide ${bad ? "bad" : "good"}`;
  const missing = audit.lost_count ? ` + missing ${audit.lost_count}` : "";
  const equation = `received ${audit.received} = completed ${audit.completed} + dead ${audit.dead} + running ${audit.running} + queued ${audit.queued}${missing}`;
  const verdict = [wrong ? `${audit.lost_count} lost, ${audit.repeated_count} repeated, ${audit.unreceived_count} never received` : "nothing lost, nothing repeated"];
  if (audit.tables_agree === false) verdict.push("the tables disagree with the log");
  const copies = audit.resubmitted_count; // no fault: the first outcome of an id counts
  if (copies) verdict.push(`${copies} submitted more than once`);
  byId("verdict").textContent = `${verdict.join("; ")} (${equation}; ${new Date(audit.at).toLocaleTimeString()})`;
  findings.hidden = !wrong && !copies;
  if (wrong || copies) {
    const { items } = await call("/stats/findings?limit=100");
    const open = items.filter((f) => !f.resolved_at);
    const head = el("tr", {}, ...["Task", "Verdict", "Event", "Found", ""].map((t) => el("th", { scope: "col" }, t)));
    findings.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...open.map((f) => el("tr", {}, el("td", { class: "id" }, f.id),
      el("td", { class: "verdict" }, f.verdict), el("td", {}, f.event), el("td", {}, new Date(f.found_at).toLocaleString()), el("td", {}, f.detail))))));
  }
}

function showState(text, good) {
  const at = byId("state");
  at.className = `health ${good ? "good" : "bad"}`;
  at.lastElementChild.textContent = text;
}

/** Fills the filter with every kind that was ever counted. */
async function showKinds() {
  const found = await rows("counts", { bucket: "month", by: "name" });
  const kinds = [...new Set(found.map((r) => r.name))].filter(Boolean).sort();
  for (const kind of kinds) colour("name", kind);
  const select = byId("name");
  if (select.options.length - 1 !== kinds.length) {
    select.replaceChildren(el("option", { value: "" }, "all"), ...kinds.map((k) => el("option", { value: k }, k)));
    select.value = chosen.name;
  }
}

let latestRefresh = 0;
async function refresh() {
  const mine = ++latestRefresh;
  const hours = { ...query(), bucket: chosen.bucket === "minute" ? "hour" : chosen.bucket, ...(chosen.by === "name" ? { by: "name" } : {}) };
  try {
    const [summary, counted, ends, nodes, timed] = await Promise.all([call("/stats/summary"), rows("counts", query(chosen.by ? { by: chosen.by } : {})),
      rows("counts", query()), rows("counts", query({ by: "node" })), rows("durations", hours), showKinds()]);
    if (mine !== latestRefresh) return; // the user has changed the selection since
    showFigures(summary);
    await showAudit(summary.audit);
    drawCounts(counted, ends);
    drawPercentiles("queued", timed, "queued");
    drawPercentiles("duration", timed, "duration");
    drawNodes(nodes);
    showState(summary.counted_at ? `last counted at ${new Date(summary.counted_at).toLocaleTimeString()}` : "nothing counted yet", true);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showState(error.message, false);
  }
  const csv = { completed: address("completed", query(chosen.by ? { by: chosen.by } : {})), counts: address("counts", query(chosen.by ? { by: chosen.by } : {})),
    queued: address("durations", hours), duration: address("durations", hours), nodes: address("counts", query({ by: "node" })) };
  for (const [id, link] of Object.entries(csv)) byId(`csv-${id}`).href = `${link}&format=csv`;
}

function choices(id, names, field) {
  const at = byId(id);
  for (const [value, text] of Object.entries(names)) {
    at.append(el("button", { type: "button", value, "aria-pressed": String(chosen[field] === value), onclick: (event) => {
      chosen[field] = value;
      for (const b of at.querySelectorAll("button")) b.setAttribute("aria-pressed", String(b === event.currentTarget));
      if (field === "bucket") byId("span").value = chosen.span = DEFAULT_SPAN[value];
      refresh();
    } }, text));
  }
}

choices("bucket", BUCKETS, "bucket");
choices("by", SPLITS, "by");
byId("span").append(...Object.keys(SPANS).map((s) => el("option", { value: s, selected: s === chosen.span }, s)));
byId("span").addEventListener("change", (event) => { chosen.span = event.target.value; refresh(); });
byId("name").addEventListener("change", (event) => { chosen.name = event.target.value; refresh(); });
dark.addEventListener("change", refresh);

refresh();
setInterval(() => { if (!document.hidden) refresh(); }, REFRESH_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
