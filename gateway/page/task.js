// One task's way, drawn as its events come in, and then its result.
import * as api from "./api.js";
import { between, byId, clock, el, size, span } from "./dom.js";

const PREVIEW_BYTES = 64 * 1024;
const LABELS = { received: "Received", started: "Started", completed: "Completed", failed: "Failed", cancelled: "Cancelled" };
const ENDS = ["completed", "failed", "cancelled"];

let shown = null; // the task on show: {id, source, events, progress}

/** Shows a task and follows it to its end. */
export function show(id) {
  if (shown?.id === id) return;
  shown?.source?.close();
  shown = { id, source: new EventSource(`/tasks/${id}/events`), events: new Map(), progress: null };
  const mine = shown;
  for (const name of ["received", "started", "progress", ...ENDS]) {
    mine.source.addEventListener(name, (message) => {
      if (shown !== mine) return;
      const data = JSON.parse(message.data);
      if (name === "progress") mine.progress = data;
      else mine.events.set(name, data);
      if (ENDS.includes(name)) mine.source.close();
      draw();
    });
  }
  mine.source.onerror = async () => {
    if (shown !== mine || mine.source.readyState !== EventSource.CLOSED || mine.events.size) return;
    try {
      await api.task(id);
    } catch (problem) {
      byId("task-body").replaceChildren(el("p", { class: "error" }, problem.message));
    }
  };
  draw();
}

export function current() {
  return shown?.id;
}

function draw() {
  const { events, id } = shown;
  const ended = ENDS.find((name) => events.has(name));
  const first = events.values().next().value;
  const steps = [step("received", null), step("started", "received")];
  if (shown.progress && ended !== "completed") steps.push(progress(shown.progress, ended));
  steps.push(ended ? step(ended, events.has("started") ? "started" : "received") : waiting());
  if (ended && !events.has("started")) steps.splice(1, 1);
  const facts = first && el("p", { class: "facts" }, el("span", {}, el("b", {}, first.name || "unreadable")), el("span", {}, first.directory), el("code", {}, id));
  const actions = ended ? null : el("div", { class: "actions" }, el("button", { type: "button", onclick: stop }, "Cancel"));
  const outcome = el("div", { class: "preview", id: "outcome" });
  byId("task-body").replaceChildren(...[facts || el("code", {}, id), el("ol", { class: "way" }, ...steps), outcome, actions].filter(Boolean));
  if (ended === "completed") result(outcome, events.get(ended).result);
  else if (ended) failure(outcome, id, events.get(ended));
}

function step(name, after) {
  const event = shown.events.get(name);
  if (!event) return el("li", {}, el("span", { class: "step muted" }, LABELS[name]));
  const before = after && shown.events.get(after);
  const took = before ? between(before.at, event.at) : null;
  const passed = took === null ? null : el("span", { class: "wait" }, name === "started" ? `after ${span(took)} in the queue` : `after ${span(took)}`);
  return el("li", { class: `done ${name}` }, el("span", { class: "step" }, LABELS[name]), el("time", { datetime: event.at }, clock(event.at)), passed);
}

function progress(report, ended) {
  const percent = Math.round(report.fraction * 100);
  const bar = el("progress", { max: 1, value: report.fraction, "aria-label": "progress" }, `${percent} %`);
  return el("li", { class: ended ? "done" : "now" }, el("span", { class: "step" }, `${percent} %`), el("span", { class: "wait" }, report.message), bar);
}

function waiting() {
  const running = shown.events.has("started");
  return el("li", { class: "now" }, el("span", { class: "step muted" }, running ? "Running" : "Waiting for a free slot"));
}

async function result(place, about) {
  const type = about.content_type.split(";")[0];
  const facts = el("p", { class: "facts" }, el("span", {}, el("b", {}, "Result "), size(about.bytes)), el("span", {}, type));
  const download = el("a", { class: "button", href: about.href, download: "" }, "Download");
  const actions = el("div", { class: "actions" }, download, el("button", { type: "button", onclick: printed }, "Log"));
  place.replaceChildren(facts, actions);
  if (/^image\/(png|jpeg|gif|webp|avif|bmp)$/.test(type)) {
    place.append(el("img", { src: about.href, alt: "the task's result" }));
  } else if (/^text\/|json$/.test(type) && about.bytes > 0) {
    const answer = await fetch(about.href, { headers: { Range: `bytes=0-${PREVIEW_BYTES - 1}` } });
    if (!answer.ok) {
      place.append(el("p", { class: "error" }, "the stored result cannot be read"));
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
    const value = JSON.parse(text);
    const flat = Array.isArray(value) && value.every((v) => typeof v !== "object" || v === null);
    return flat ? `[${value.map((v) => JSON.stringify(v)).join(", ")}]` : JSON.stringify(value, null, 2);
  } catch {
    return text;
  }
}

async function failure(place, id, event) {
  place.replaceChildren(el("p", { class: "error" }, `${event.reason}: ${event.error.split("\n").at(-1)}`));
  if (event.error.includes("\n")) place.append(el("pre", { tabindex: 0 }, event.error));
  place.append(el("div", { class: "actions" }, el("button", { type: "button", onclick: printed }, "Log")));
  const found = await api.task(id).catch(() => null);
  const tried = (found?.attempts || []).filter((a) => a.cause);
  if (tried.length && shown.id === id) {
    place.append(el("p", { class: "facts" }, ...tried.map((a) => el("span", {}, `attempt ${a.attempt}: ${a.cause} on ${a.node || "no node"}`))));
  }
}

/** Shows what the last attempt has printed, in place of the button that asked for it. */
async function printed(event) {
  const { id } = shown;
  const actions = event.target.parentElement;
  event.target.remove();
  const { attempts } = await api.task(id).catch(() => ({ attempts: [] }));
  const answer = await fetch(`/tasks/${id}/attempts/${attempts.at(-1)?.attempt || 1}/log`).catch(() => null);
  const text = answer?.ok ? await answer.text() : "";
  actions.after(text ? el("pre", { tabindex: 0, "aria-label": "log" }, text) : el("p", { class: "muted" }, "No log is kept of the last attempt."));
}

async function stop(event) {
  event.target.disabled = true;
  try {
    await api.cancel(shown.id);
  } catch (problem) {
    event.target.after(el("span", { class: "error" }, problem.message));
  }
}
