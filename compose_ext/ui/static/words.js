// States, amounts and times as people read them, and elements of the page. Pure, but for `el`.

export const STATES = {
  broken: ["✕", "broken", "Packets are sent and none come back."],
  unwired: ["◌", "unwired", "The consumer's task has no working interface yet."],
  "not-allowed": ["⊘", "not allowed", "The provider's stack does not allow this link."],
  unknown: ["?", "unknown", "Its node has reported nothing that is recent enough."],
  stale: ["!", "stale", "The last handshake is too long ago."],
  "no-handshake": ["!", "no handshake", "The two tasks have not shaken hands yet."],
  "no-tasks": ["–", "no tasks", "One of the two services has no task."],
  idle: ["○", "idle", "No traffic, so no handshake is due."],
  connected: ["●", "connected", "Both ends have seen a recent handshake."],
};
export const ORDER = Object.keys(STATES);

export const rank = (state) => ORDER.indexOf(state); // a newer agent's state: -1, before all
export const glyph = (state) => (STATES[state] ?? ["!"])[0];
export const word = (state) => (STATES[state] ?? ["", state])[1];
export const meaning = (state) => (STATES[state] ?? ["", "", ""])[2];
export const short = (name, stack) => (stack ? name.slice(stack.length + 1) : name);

/** A number of bytes as Docker writes it: 1.23MB. */
export function amount(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let unit = 0;
  while (bytes >= 1000 && unit < units.length - 1) {
    bytes /= 1000;
    unit += 1;
  }
  return unit ? `${Number(bytes.toPrecision(3))}${units[unit]}` : `${Math.round(bytes)}B`;
}

export const rate = (bytes) => (bytes === null || bytes === undefined ? "–" : `${amount(bytes)}/s`);
export const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));

/** How long ago, in the largest unit that gives a whole number. */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return "never";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${Math.floor(Math.max(seconds, 0))} s ago`;
}

/** A task's name with its id as short as Docker shows it. */
export function task(name) {
  const dot = name.lastIndexOf(".");
  return dot < 0 ? name : name.slice(0, dot + 13);
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const moment = (seconds) => {
  const at = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${at.toLocaleTimeString("en-GB")}`;
};

/** The time at which a link key's epoch began, which is milliseconds since 1970, or seconds before version 0.1. */
export const renewed = (epoch) => (epoch > 1e11 ? epoch / 1000 : epoch);

/** Make an element. Texts become text, never markup: names come from whoever may deploy. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const stateMark = (state) => el("span", { class: `state s-${state}` }, `${glyph(state)} ${word(state)}`);

/** Whether all words of a search stand in a text. */
export const fits = (words, text) => words.every((one) => text.includes(one));
