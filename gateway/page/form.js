// Builds form fields from the JSON Schema of a kind, and a payload from the fields.
import { el } from "./dom.js";
import { parseExact } from "./json.js";

/** The fields of a schema: `nodes` to show, and `readPayload()`, which throws FieldError. */
export function fieldsOf(schema) {
  const required = new Set(schema.required || []);
  const fields = Object.entries(schema.properties || {}).map(([name, part]) => field(name, resolve(part, schema), required.has(name)));
  return {
    nodes: fields.map((f) => f.node),
    readPayload() {
      const payload = {};
      for (const f of fields) {
        const value = f.readValue();
        if (value !== undefined) payload[f.name] = value;
      }
      return payload;
    },
  };
}

export class FieldError extends Error {
  constructor(pointer, message) {
    super(message);
    this.pointer = pointer;
  }
}

/** A property with its $ref resolved. "Or null" means that the field may be empty. */
function resolve(part, root) {
  let found = part;
  for (let depth = 0; found.$ref && depth < 10; depth += 1) {
    const target = found.$ref.replace(/^#\//, "").split("/").reduce((at, key) => at?.[key], root) || {};
    found = { ...target, ...found, $ref: target.$ref };
  }
  const choices = (found.anyOf || found.oneOf || []).filter((c) => c.type !== "null");
  if (choices.length === 1) return resolve({ ...found, anyOf: undefined, oneOf: undefined, ...choices[0] }, root);
  return found;
}

function field(name, schema, required) {
  const id = `payload-${name}`;
  const pointer = `/payload/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`;
  const input = inputFor(schema, required);
  input.id = id;
  input.dataset.pointer = pointer;
  if (required) input.setAttribute("aria-required", "true");
  input.setAttribute("aria-describedby", `${id}-help ${id}-error`);
  const title = el("label", { class: "name", for: id }, name, required ? null : el("span", { class: "optional" }, " (optional)"));
  const help = schema.description || rangeOf(schema);
  const error = el("span", { class: "error", role: "alert", id: `${id}-error` });
  const parts = input.type === "checkbox" ? [el("span", { class: "check" }, input, title)] : [title, input];
  const node = el("div", { class: "field" }, ...parts, help ? el("span", { class: "help", id: `${id}-help` }, help) : null, error);
  return { name, node, readValue: () => readValue(input, schema, required, pointer) };
}

function inputFor(schema, required) {
  const initial = schema.default;
  if (schema.enum) {
    const options = schema.enum.map((v) => el("option", { value: JSON.stringify(v), selected: v === initial }, String(v)));
    return el("select", {}, ...(required || initial !== undefined ? [] : [el("option", { value: "" }, "")]), ...options);
  }
  if (schema.type === "boolean") return el("input", { type: "checkbox", checked: initial === true });
  if (schema.type === "integer" || schema.type === "number") {
    return el("input", {
      type: "number", step: schema.type === "integer" ? "1" : "any", value: initial ?? undefined,
      min: schema.minimum ?? schema.exclusiveMinimum, max: schema.maximum ?? schema.exclusiveMaximum,
    });
  }
  if (schema.type === "string") {
    if (schema.maxLength && schema.maxLength <= 200) return el("input", { type: "text", value: initial ?? undefined });
    return el("textarea", { rows: 2, spellcheck: "false" }, initial ?? "");
  }
  const example = schema.type === "array" ? "[1, 2, 3]" : '{"key": "value"}';
  const shown = initial === undefined || initial === null ? "" : JSON.stringify(initial, null, 2);
  return el("textarea", { rows: 4, spellcheck: "false", placeholder: `JSON, such as ${example}`, "data-json": "true" }, shown);
}

function readValue(input, schema, required, pointer) {
  if (input.type === "checkbox") return input.checked;
  const text = input.value;
  if (schema.type === "string" && !schema.enum) return text === "" && !required ? undefined : text;
  if (text.trim() === "") {
    if (required) throw new FieldError(pointer, "enter a value");
    return undefined;
  }
  if (input.type === "number" && !/^-?[1-9]\d*$/.test(text)) {
    const number = Number(text);
    if (Number.isNaN(number)) throw new FieldError(pointer, "enter a number");
    return number;
  }
  try {
    return parseExact(text);
  } catch (error) {
    throw new FieldError(pointer, `enter valid JSON: ${error.message}`);
  }
}

function rangeOf(schema) {
  const least = schema.minimum ?? schema.exclusiveMinimum;
  const most = schema.maximum ?? schema.exclusiveMaximum;
  if (least !== undefined && most !== undefined) return `${least} to ${most}`;
  if (least !== undefined) return `at least ${least}`;
  return most !== undefined ? `at most ${most}` : "";
}
