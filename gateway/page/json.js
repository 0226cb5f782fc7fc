// JSON whose integers keep all their digits. JavaScript's own numbers are exact up to 2^53 only.

/** The value of a text. An integer beyond 2^53 becomes raw JSON, which JSON.stringify writes as it was read. */
export function parseExact(text) {
  return JSON.parse(text, (key, value, context) => (typeof value === "number" ? exact(value, context?.source) : value));
}

/** Whether a parsed value is a number, text, a boolean or null: neither a list nor an object. */
export function isPlain(value) {
  return typeof value !== "object" || value === null || Boolean(JSON.isRawJSON?.(value));
}

function exact(value, source) {
  const isWhole = source === undefined ? Number.isInteger(value) : /^-?\d+$/.test(source);
  if (isWhole && !Number.isSafeInteger(value)) {
    if (source === undefined || !JSON.rawJSON) throw new SyntaxError("this browser cannot keep integers beyond 2^53 exact: use the command line");
    return JSON.rawJSON(source);
  }
  if (!Number.isFinite(value)) throw new SyntaxError("a number is too large");
  return value;
}
