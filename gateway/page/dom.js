// Elements, times and sizes for the other modules. Text is never interpreted as markup.

/** An element with attributes (`class`, `on…` functions, others as they are) and children (nodes or text). */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((c) => c !== null && c !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** The time of day, with the date unless it is today. */
export function clock(text) {
  if (!text) return "";
  const at = new Date(text);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString()} ${time}`;
}

/** A duration in the unit that fits it. */
export function span(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return twoUnits(Math.round(ms / 1000), 60, "min", "s");
  return twoUnits(Math.round(ms / 60_000), 60, "h", "min");
}

function twoUnits(small, ratio, bigName, smallName) {
  const rest = small % ratio;
  return `${Math.floor(small / ratio)} ${bigName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

/** Text in which `names` become code elements. */
export function prose(text) {
  return text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

/** Milliseconds from one RFC 3339 time to another; null when one is missing. */
export function between(from, to) {
  return from && to ? Math.max(0, new Date(to) - new Date(from)) : null;
}

export function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let at = -1;
  do { bytes /= 1000; at += 1; } while (bytes >= 1000 && at < units.length - 1);
  return `${bytes.toFixed(1)} ${units[at]}`;
}
