// The page: the form, the task in the address, and what is refreshed every few seconds.
import * as api from "./api.js";
import { byId, el, prose } from "./dom.js";
import { FieldError, fieldsOf } from "./form.js";
import { followTasks, scheduleRefresh, showKinds, showNodes } from "./lists.js";
import { show } from "./task.js";

const REFRESH_MS = 3000;
let kinds = [];
let fields = fieldsOf({});

function chooseKind() {
  const kind = kinds.find((k) => k.name === byId("kind").value);
  fields = fieldsOf(kind?.schema || {});
  byId("payload").replaceChildren(...fields.nodes);
  byId("kind-description").replaceChildren(...prose(kind?.description || ""));
}

async function loadKinds() {
  const found = (await api.kinds().catch(() => ({ items: kinds }))).items;
  showKinds(found);
  const same = JSON.stringify(found.map((k) => [k.name, k.version, k.schema])) === JSON.stringify(kinds.map((k) => [k.name, k.version, k.schema]));
  kinds = found;
  if (same) return; // keeps what the user is typing
  const chosen = byId("kind").value;
  byId("kind").replaceChildren(...kinds.map((k) => el("option", { value: k.name, selected: k.name === chosen }, k.name)));
  chooseKind();
}

async function run(event) {
  event.preventDefault();
  clearErrors();
  const button = event.submitter || byId("form").querySelector("button.primary");
  button.disabled = true;
  try {
    const submission = { name: byId("kind").value, payload: fields.readPayload(), directory: byId("directory").value, priority: byId("priority").value };
    for (const name of ["timeout_s", "max_attempts"]) if (byId(name).value) submission[name] = Number(byId(name).value);
    const accepted = await api.submit(submission);
    location.hash = `#/tasks/${accepted.id}`;
    byId("task").scrollIntoView({ block: "nearest" });
    scheduleRefresh();
  } catch (error) {
    showErrors(error);
  } finally {
    button.disabled = false;
  }
}

function clearErrors() {
  for (const at of byId("form").querySelectorAll(".error")) at.textContent = "";
  for (const at of byId("form").querySelectorAll("[aria-invalid]")) at.removeAttribute("aria-invalid");
}

function showErrors(error) {
  const errors = error instanceof FieldError ? [{ pointer: error.pointer, detail: error.message }] : error.errors || [];
  let placed = null;
  for (const { pointer, detail } of errors) {
    const input = [...byId("form").querySelectorAll("[data-pointer]")].find((i) => i.dataset.pointer === pointer);
    if (!input) continue;
    input.setAttribute("aria-invalid", "true");
    input.closest(".field").querySelector(".error").textContent = detail;
    placed ??= input;
  }
  if (placed) placed.focus();
  else byId("form-error").textContent = error.message;
}

function showTaskInAddress() {
  const match = /^#\/tasks\/([0-9a-f-]{36})$/i.exec(location.hash);
  if (!match) return;
  show(match[1].toLowerCase());
  scheduleRefresh();
}

async function refresh() {
  const reason = await api.health();
  byId("health").className = `health ${reason ? "bad" : "good"}`;
  byId("health").lastElementChild.textContent = reason || "ready";
  await Promise.all([loadKinds(), showNodes()]);
  setTimeout(refresh, REFRESH_MS);
}

byId("kind").addEventListener("change", chooseKind);
byId("form").addEventListener("submit", run);
window.addEventListener("hashchange", showTaskInAddress);
showTaskInAddress();
followTasks();
refresh();
