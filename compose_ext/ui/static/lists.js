// The lists: links, nodes, events, problems. Rows stay the same elements while their contents change, so that a
// screen reader and the keyboard keep their place.

import { el, fits, glyph, moment, number, rank, rate, stateMark, word } from "./words.js";

const byId = (id) => document.getElementById(id);

/** Make a list's children those of `items`, in their order, changing no more than has to be. */
function keyed(list, items, key, make, fill) {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  let place = list.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let row = old.get(name);
    old.delete(name);
    if (!row) {
      row = make(item);
      row.dataset.key = name;
    }
    fill(row, item);
    if (row === place) place = place.nextElementSibling;
    else list.insertBefore(row, place);
  }
  for (const row of old.values()) row.remove();
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

function write(cell, text) {
  if (cell.textContent !== text) cell.textContent = text;
}

function mark(cell, state) {
  if (cell.dataset.state === state) return;
  cell.dataset.state = state;
  cell.replaceChildren(stateMark(state));
}

const current = (row, is) => (is ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current"));

export function showLinks(links, shown, address) {
  const sorted = [...links].sort(
    (a, b) => rank(a.state) - rank(b.state) || (`${a.consumer} ${a.provider}` < `${b.consumer} ${b.provider}` ? -1 : 1),
  );
  const chosen = JSON.stringify(shown.details);
  keyed(
    byId("links"),
    sorted.slice(0, shown.limit),
    (link) => `${link.consumer} ${link.provider}`,
    (link) =>
      el("tr", {}, el("td"),
        el("td", {}, el("a", { href: "#" }, `${link.consumer} → ${link.provider}`)),
        el("td", { class: "number" }), el("td", { class: "number wide" }), el("td", { class: "number wide" }), el("td", { class: "number" })),
    (row, link) => {
      const [state, name, pairs, received, sent, refused] = row.children;
      mark(state, link.state);
      name.firstElementChild.setAttribute("href", address("link", link.consumer, link.provider));
      write(pairs, number(link.pairs_count));
      write(received, rate(link.received_rate));
      write(sent, rate(link.sent_rate));
      write(refused, number(link.refused));
      current(row, chosen === JSON.stringify(["link", link.consumer, link.provider]));
    },
  );
  byId("links-none").hidden = sorted.length > 0;
  const more = byId("links-more");
  more.hidden = sorted.length <= shown.limit;
  write(more, `Show more: ${number(sorted.length - shown.limit)} are not listed`);
}

const keys = (node) => (node.accepted === null ? "–" : node.accepted ? "accepted" : node.unproven || "not accepted");

/** A node's part in node encryption: its step, and how many of its peers answer. */
export function encryption(part) {
  if (!part) return "–";
  if (part.why_not) return "no part in it";
  const reached = `${part.step}, reaches ${number(part.ready)} of ${number(part.peers)}`;
  return part.problem ? `${glyph("stale")} ${reached}` : reached;
}

export function showNodes(nodes, shown, address) {
  const chosen = JSON.stringify(shown.details);
  keyed(
    byId("nodes"),
    nodes.filter((node) => fits(shown.words, `${node.name} ${node.address} ${word(node.state)}`.toLowerCase())),
    (node) => node.name,
    (node) =>
      el("tr", {}, el("td"), el("td", {}, el("a", { href: "#" }, node.name)), el("td", { class: "wide" }),
        el("td", { class: "number" }), el("td", { class: "wide" }), el("td", { class: "wide" })),
    (row, node) => {
      const [state, name, where, tasks, trusted, encrypted] = row.children;
      mark(state, node.state);
      name.firstElementChild.setAttribute("href", address("node", node.name));
      write(where, node.address ?? "–");
      write(tasks, number(node.tasks_count));
      write(trusted, keys(node));
      write(encrypted, encryption(node.encryption));
      current(row, chosen === JSON.stringify(["node", node.name]));
    },
  );
}

const facts = (event) => Object.entries(event.details).map(([name, value]) => `${name}: ${value}`).join(", ");

export function showEvents(answer, shown) {
  if (!answer) return;
  const found = answer.events.filter((event) => fits(shown.words, `${event.kind} ${facts(event)}`.toLowerCase()));
  const times = new Map();
  keyed(
    byId("events"),
    found.map((event) => {
      const name = `${event.time} ${event.kind} ${facts(event)}`;
      times.set(name, (times.get(name) ?? 0) + 1);
      return { ...event, name: `${name} ${times.get(name)}` };
    }),
    (event) => event.name,
    (event) => {
      const state = event.measured ? event.kind.replace("link ", "") : "";
      const kind = state ? `${glyph(state)} link ${word(state)}` : event.kind;
      return el("li", { class: state ? `measured s-${state}` : null },
        el("time", { datetime: new Date(event.time * 1000).toISOString() }, moment(event.time)),
        el("strong", {}, kind), " ", el("span", { class: "facts" }, facts(event)));
    },
    () => {},
  );
  byId("events-none").hidden = found.length > 0;
  keyed(byId("event-problems"), answer.problems, (text) => text, (text) => el("li", {}, text), () => {});
}

export function showProblems(problems, words) {
  const found = problems.filter((text) => fits(words, text.toLowerCase()));
  keyed(byId("problems"), [...new Set(found)], (text) => text, (text) => el("li", {}, text), () => {});
  byId("problems-none").hidden = problems.length > 0;
}

