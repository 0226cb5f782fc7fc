// The gateway's public routes. An error answer is thrown as a Problem.

export class Problem extends Error {
  constructor(body, status) {
    super(body.detail || body.title || `the gateway answered ${status}`);
    this.errors = body.errors || [];
    this.status = status;
    this.type = body.type || "";
  }
}

export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Problem({ detail: "the gateway does not answer: is it running?" }, 0);
  }
  const isJson = /json/.test(answer.headers.get("content-type") || "");
  const body = isJson ? await answer.json() : {};
  if (!answer.ok) throw new Problem(body, answer.status);
  return body;
}

export const submit = (submission) =>
  call("/tasks", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(submission) });
export const cancel = (id) => call(`/tasks/${id}`, { method: "DELETE" });
export const task = (id) => call(`/tasks/${id}`);
export const tasks = (query) => call(`/tasks?${new URLSearchParams(query)}`);
export const kinds = () => call("/kinds");
export const nodes = () => call("/nodes");

/** "" when the gateway is ready, else the reasons why it is not. */
export async function health() {
  try {
    const answer = await fetch("/readyz");
    const body = await answer.json();
    return answer.ok ? "" : body.reasons.join("; ");
  } catch {
    return "the gateway does not answer: is it running?";
  }
}
