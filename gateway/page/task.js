// The selected task: its steps as their events arrive, and then its result.
import * as api from "./api.js";
import { between, byId, clock, el, size, span } from "./dom.js";
import { isPlain, parseExact } from "./json.js";

const PREVIEW_BYTES = 64 * 1024;
const LABELS = { received: "Received", started: "Started", completed: "Completed", failed: "Failed", cancelled: "Cancelled" };
const ENDS = ["completed", "failed", "cancelled"];

let selected = null; // the selected task: {id, source, events, progress}

/** Shows a task and follows its events until it ends. */
export function show(id) {
  if (selected?.id === id) return;
  selected?.source?.close();
  selected = { id, source: new EventSource(`/tasks/${id}/events`), events: new Map(), progress: null };
  const opened = selected;
  for (const name of ["received", "started", "progress", ...ENDS]) {
    opened.source.addEventListener(name, (message) => {
      if (selected !== opened) return;
      const data = JSON.parse(message.data);
      if (name === "progress") opened.progress = data;
      else opened.events.set(name, data);
      if (ENDS.includes(name)) opened.source.close();
      draw();
    });
  }
  opened.source.onerror = async () => {
    if (selected !== opened || opened.source.readyState !== EventSource.CLOSED || opened.events.size) return;
    try {
      await api.task(id);
    } catch (problem) {
      byId("task-body").replaceChildren(el("p", { class: "error" }, problem.message));
    }
  };
  draw();
}

export function currentId() {
  return selected?.id;
}

function draw() {
  const { events, id } = selected;
  const ended = ENDS.find((name) => events.has(name));
  const first = events.values().next().value;
  const steps = [step("received", null), step("started", "received")];
  if (selected.progress && ended !== "completed") steps.push(progressStep(selected.progress, ended));
  steps.push(ended ? step(ended, events.has("started") ? "started" : "received") : waitingStep());
  if (ended && !events.has("started")) steps.splice(1, 1);
  const facts = first && el("p", { class: "facts" }, el("span", {}, el("b", {}, first.name || "unreadable submission")), el("span", {}, first.directory), el("code", {}, id));
  const actions = ended ? null : el("div", { class: "actions" }, el("button", { type: "button", onclick: cancelTask }, "Cancel"));
  const outcome = el("div", { class: "preview", id: "outcome" });
  byId("task-body").replaceChildren(...[facts || el("code", {}, id), el("ol", { class: "way" }, ...steps), outcome, actions].filter(Boolean));
  if (ended === "completed") showResult(outcome, events.get(ended).result);
  else if (ended) showFailure(outcome, id, events.get(ended));
}

function step(name, after) {
  const event = selected.events.get(name);
  if (!event) return el("li", {}, el("span", { class: "step muted" }, LABELS[name]));
  const before = after && selected.events.get(after);
  const took = before ? between(before.at, event.at) : null;
  const passed = took === null ? null : el("span", { class: "wait" }, name === "started" ? `after ${span(took)} in the queue` : `after ${span(took)}`);
  return el("li", { class: `done ${name}` }, el("span", { class: "step" }, LABELS[name]), el("time", { datetime: event.at }, clock(event.at)), passed);
}

function progressStep(report, ended) {
  const percent = Math.round(report.fraction * 100);
  const bar = el("progress", { max: 1, value: report.fraction, "aria-label": "progress" }, `${percent} %`);
  return el("li", { class: ended ? "done" : "now" }, el("span", { class: "step" }, `${percent} %`), el("span", { class: "wait" }, report.message), bar);
}

function waitingStep() {
  const running = selected.events.has("started");
  return el("li", { class: "now" }, el("span", { class: "step muted" }, running ? "Running" : "Waiting for a free slot"));
}

async function showResult(place, about) {
  const type = about.content_type.split(";")[0];
  const facts = el("p", { class: "facts" }, el("span", {}, el("b", {}, "Result "), size(about.bytes)), el("span", {}, type));
  const download = el("a", { class: "button", href: about.href, download: "" }, "Download");
  const actions = el("div", { class: "actions" }, download, el("button", { type: "button", onclick: showLog }, "Log"));
  place.replaceChildren(facts, actions);
  if (/^image\/(png|jpeg|gif|webp|avif|bmp)$/.test(type)) {
    place.append(el("img", { src: about.href, alt: "the task's result" }));
  } else if (/^text\/|json$/.test(type) && about.bytes > 0) {
    const answer = await fetch(about.href, { headers: { Range: `bytes=0-${PREVIEW_BYTES - 1}` } });
    if (!answer.ok) {
      place.append(el("p", { class: "error" }, "The stored result cannot be read."));
      return;
    }
    place.append(el("pre", { tabindex: 0, "aria-label": "result" }, await preview(answer, about)));
  }
}

async function preview(answer, about) {
  const text = await answer.text();
  if (about.bytes > PREVIEW_BYTES) return `${text}\n… the first ${size(PREVIEW_BYTES)} of ${size(about.bytes)}`;
  if (!about.content_type.includes("json")) return text;
  try {
    const value = parseExact(text);
    const flat = Array.isArray(value) && value.every(isPlain);
    return flat ? `[${value.map((v) => JSON.stringify(v)).join(", ")}]` : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}

async function showFailure(place, id, event) {
  place.replaceChildren(el("p", { class: "error" }, `${event.reason}: ${event.error.split("\n").at(-1)}`));
  if (event.error.includes("\n")) place.append(el("pre", { tabindex: 0 }, event.error));
  place.append(el("div", { class: "actions" }, el("button", { type: "button", onclick: showLog }, "Log")));
  const found = await api.task(id).catch(() => null);
  const tried = (found?.attempts || []).filter((a) => a.cause);
  if (tried.length && selected.id === id) {
    place.append(el("p", { class: "facts" }, ...tried.map((a) => el("span", {}, `attempt ${a.attempt}: ${a.cause} on ${a.node || "an unknown node"}`))));
  }
}

/** Replaces the button with the log of the last attempt. */
async function showLog(event) {
  const { id } = selected;
  const actions = event.target.parentElement;
  event.target.remove();
  const { attempts } = await api.task(id).catch(() => ({ attempts: [] }));
  const answer = await fetch(`/tasks/${id}/attempts/${attempts.at(-1)?.attempt || 1}/log`).catch(() => null);
  const text = answer?.ok ? await answer.text() : "";
  actions.after(text ? el("pre", { tabindex: 0, "aria-label": "log" }, text) : el("p", { class: "muted" }, "The last attempt has no log."));
}

async function cancelTask(event) {
  event.target.disabled = true;
  try {
    await api.cancel(selected.id);
  } catch (problem) {
    event.target.after(el("span", { class: "error" }, problem.message));
  }
}
