// Recent tasks, nodes and kinds, kept up to date.
import * as api from "./api.js";
import { between, byId, clock, el, prose, span } from "./dom.js";
import { currentId } from "./task.js";

const PAGE = 15;
const REFRESH_MS = 400; // the least time between two refreshes, however many events arrive
let shownRows = PAGE;
let due = null;

/** Loads the list now, and again after each event of any task. */
export function followTasks() {
  byId("status-filter").addEventListener("change", refresh);
  byId("recent-more").addEventListener("click", () => {
    shownRows += PAGE;
    refresh();
  });
  const source = new EventSource("/events");
  for (const name of ["received", "started", "completed", "failed", "cancelled", "reset"]) source.addEventListener(name, scheduleRefresh);
  source.onopen = scheduleRefresh; // also after a reconnect
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) {
      source.close();
      setTimeout(followTasks, 3000);
    }
  };
}

export function scheduleRefresh() {
  due ??= setTimeout(() => {
    due = null;
    refresh();
  }, REFRESH_MS);
}

async function refresh() {
  const status = byId("status-filter").value;
  let page;
  try {
    page = await api.tasks({ limit: shownRows, ...(status ? { status } : {}) });
  } catch {
    return; // the health line of the page says what is wrong
  }
  byId("recent").replaceChildren(...page.items.map(row));
  byId("recent-empty").hidden = page.items.length > 0;
  byId("recent-more").hidden = !page.next;
}

function row(task) {
  const open = () => { location.hash = `#/tasks/${task.id}`; };
  const took = between(task.started_at, task.ended_at);
  return el("tr", { onclick: open, "aria-current": task.id === currentId() ? "true" : null },
    el("td", {}, el("span", { class: `status ${task.status}` }, task.status)),
    el("td", {}, task.name),
    el("td", {}, task.directory),
    el("td", {}, el("time", { datetime: task.received_at }, clock(task.received_at))),
    el("td", { class: "number" }, span(took)),
    el("td", {}, el("a", { class: "id", href: `#/tasks/${task.id}` }, task.id.slice(0, 8))));
}

export async function showNodes() {
  const found = (await api.nodes().catch(() => ({ items: [] }))).items;
  const nodes = found.map((node) => {
    if (node.state === "drained" || node.state === "dead") return endedNode(node);
    const slots = Array.from({ length: Math.min(node.slots, 64) }, (_, i) => el("i", { class: i < node.running.length ? "busy" : "" }));
    const name = node.stats_url ? el("a", { href: node.stats_url }, node.node) : node.node;
    return el("li", {},
      el("div", { class: "row" }, el("b", {}, name), el("span", { class: "slots", role: "img", "aria-label": `${node.running.length} of ${node.slots} slots busy` }, ...slots)),
      el("p", { class: "muted small" }, `${node.running.length} of ${node.slots} slots busy · ${node.state} · last heartbeat ${node.seen_s.toFixed(0)} s ago`));
  });
  byId("nodes").replaceChildren(...(nodes.length ? nodes : [el("li", { class: "muted" }, "No nodes yet. Tasks wait until a worker starts.")]));
}

/** A node that has ended: its page is gone, and its slots with it. */
function endedNode(node) {
  return el("li", {},
    el("div", { class: "row" }, el("b", {}, node.node), el("span", { class: `status ${node.state}` }, node.state)),
    el("p", { class: "muted small" }, `${node.state === "drained" ? "ended in order" : "its tasks go to other nodes"} · last heard of ${node.seen_s.toFixed(0)} s ago`));
}

export function showKinds(kinds) {
  const items = kinds.map(({ name, description, live, timeout_s, max_attempts }) => el("li", {},
    el("div", { class: "row" }, el("b", {}, name), el("span", { class: "muted small" }, live.length ? `on ${live.join(", ")}` : "on no live node")),
    description ? el("p", { class: "small" }, ...prose(description.split("\n")[0])) : null,
    el("p", { class: "muted small" }, `time limit ${span(timeout_s * 1000)} · ${max_attempts} attempts`)));
  byId("kinds").replaceChildren(...(items.length ? items : [el("li", { class: "muted" }, "No kinds yet. A worker registers its kinds when it starts.")]));
}
