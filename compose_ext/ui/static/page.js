// The page of `docker linkwire ui`: asks its own server every few seconds, and shows what it says. The address's last
// part (#/links/service/shop_web) says which view is shown, and which details beside it.

import { details } from "./details.js";
import { Graph } from "./graph.js";
import { showEvents, showLinks, showNodes, showProblems } from "./lists.js";
import { ORDER, clock, fits, glyph, rank, word } from "./words.js";

const EVERY_MS = 3000;
const OLD_MS = 15000;
const VIEWS = ["graph", "links", "nodes", "events", "problems"];
const byId = (id) => document.getElementById(id);

const shown = {
  graph: null, // the server's last document
  events: null,
  states: new Set(), // those that alone are shown; none: all
  words: [],
  view: "graph",
  details: null, // [kind, ...names]
  limit: 200,
  before: new Map(), // states of links, to announce what changed
  opener: null,
};
const graph = new Graph(byId("graph"), (kind, ...names) => open(kind, ...names), () => render());

async function ask(path, parameters = {}) {
  const query = new URLSearchParams(parameters).toString();
  const answer = await fetch(query ? `${path}?${query}` : path, { credentials: "omit" });
  return answer.ok || answer.status === 404 ? answer.json() : Promise.reject(new Error(`${answer.status}`));
}

export function address(kind, ...names) {
  return `#/${[shown.view, kind, ...names].map(encodeURIComponent).join("/")}`;
}

function open(kind, ...names) {
  location.hash = address(kind, ...names);
}

function chosen() {
  if (!shown.states.size && !shown.words.length) return { links: shown.graph.links, all: true };
  const links = shown.graph.links.filter(
    (link) =>
      (!shown.states.size || shown.states.has(link.state)) &&
      fits(shown.words, `${link.consumer} ${link.provider} ${word(link.state)}`.toLowerCase()),
  );
  return { links, all: false };
}

const endsOf = (links) => new Set(links.flatMap((link) => [link.consumer, link.provider]));

function servicesOf(links) {
  const found = endsOf(links);
  if (!shown.words.length) return found;
  const named = [...found].filter((name) => fits(shown.words, name.toLowerCase()));
  return named.length ? new Set(named) : found;
}

function render() {
  if (!shown.graph?.links) return;
  counts();
  const { links, all } = chosen();
  if (shown.view === "graph") {
    graph.update(shown.graph);
    if (all) graph.filter(null, null);
    else graph.filter(new Set(links.map((link) => `${link.consumer} ${link.provider}`)), endsOf(links));
    graph.choose(...(shown.details ?? []));
    const { services: nodes, links: edges } = shown.graph;
    byId("graph").setAttribute("aria-label", `Graph of ${nodes.length} services and ${edges.length} links`);
  } else if (shown.view === "links") showLinks(links, shown, address);
  else if (shown.view === "nodes") showNodes(shown.graph.nodes, shown, address);
  else if (shown.view === "events") showEvents(shown.events, shown);
  else showProblems(shown.graph.problems, shown.words);
  const many = shown.graph.problems.length;
  byId("problem-count").hidden = !many;
  byId("problem-count").textContent = `(${many})`;
}

function counts() {
  const group = byId("counts");
  const numbers = new Map();
  for (const { state } of shown.graph.links) numbers.set(state, (numbers.get(state) ?? 0) + 1);
  const states = [...new Set([...numbers.keys(), ...shown.states])].sort((a, b) => rank(a) - rank(b));
  const buttons = new Map([...group.children].map((button) => [button.dataset.state, button]));
  for (const [state, button] of buttons) if (!states.includes(state)) button.remove();
  for (const state of states) {
    let button = buttons.get(state);
    if (!button) {
      button = document.createElement("button");
      button.type = "button";
      button.dataset.state = state;
      button.className = `s-${state}`;
      button.addEventListener("click", () => {
        if (!shown.states.delete(state)) shown.states.add(state);
        render();
      });
      const next = [...group.children].find((other) => rank(other.dataset.state) > rank(state));
      group.insertBefore(button, next ?? null);
    }
    button.textContent = `${glyph(state)} ${numbers.get(state) ?? 0} ${word(state)}`;
    button.setAttribute("aria-pressed", String(shown.states.has(state)));
  }
}

function announce() {
  const after = new Map(shown.graph.links.map((link) => [`${link.consumer} to ${link.provider}`, link.state]));
  const changed = [...after].filter(([name, state]) => shown.before.has(name) && shown.before.get(name) !== state);
  if (changed.length) {
    const [[name, state]] = changed.sort((a, b) => rank(a[1]) - rank(b[1]));
    const more = changed.length > 1 ? `, and ${changed.length - 1} more changed` : "";
    byId("announcer").textContent = `${name} is ${word(state)}${more}`;
  }
  shown.before = after;
}

function freshness(failure) {
  const line = byId("freshness");
  const at = shown.graph?.at;
  const old = at !== undefined && Date.now() - at * 1000 > OLD_MS;
  line.textContent = at === undefined ? "Nothing read yet" : `${old ? "Not read since" : "As of"} ${clock(at)}`;
  line.classList.toggle("old", old);
  const bar = byId("failure");
  const text = failure ? `This is not of now: ${failure}` : "";
  if (bar.textContent !== text) bar.textContent = text; // it is read aloud at each change
  bar.hidden = !text;
}

async function showDetails({ focus = false } = {}) {
  const panel = byId("details");
  if (!shown.details) {
    panel.hidden = true;
    graph.resize();
    return;
  }
  const selected = getSelection();
  const reads = selected && !selected.isCollapsed && panel.contains(selected.anchorNode);
  if (reads && !focus) return; // somebody copies from it
  const wanted = shown.details;
  const [kind, ...names] = wanted;
  const parameters = kind === "link" ? { consumer: names[0], provider: names[1] } : { name: names[0] };
  const answer = await ask(`${kind}.json`, parameters);
  if (wanted !== shown.details) return;
  const was = panel.hidden;
  details(kind, names, answer, address);
  panel.hidden = false;
  if (was) graph.resize();
  if (focus) byId("details-title").focus();
}

/** Show what the server says. At first it says what it knows already, of whatever time; asking its agent takes longer. */
async function poll({ first = false } = {}) {
  let failure = null;
  try {
    const answer = await ask("graph.json", first ? { known: 1 } : {});
    failure = answer.failed;
    const isNewer = answer.links && !(shown.graph?.at > answer.at);
    if (isNewer) shown.graph = answer;
    if (shown.view === "events" && !first) shown.events = await ask("events.json");
    if (isNewer) announce();
    render();
    if (!first) await showDetails();
  } catch (error) {
    failure = error instanceof TypeError ? "`docker linkwire ui` does not answer: has it ended?" : `the server answered ${error.message}`;
  }
  freshness(failure);
}

async function loop() {
  if (!document.hidden) await poll();
  setTimeout(loop, EVERY_MS);
}

function route() {
  const [view, kind, ...names] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  if (location.hash === "#content") {
    byId("content").focus();
    return;
  }
  shown.view = VIEWS.includes(view) ? view : "graph";
  for (const name of VIEWS) byId(`view-${name}`).hidden = name !== shown.view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#/${shown.view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${shown.view[0].toUpperCase()}${shown.view.slice(1)} – Linkwire`;
  const complete = (kind === "link" && names.length === 2) || (["service", "node"].includes(kind) && names.length === 1);
  const before = JSON.stringify(shown.details);
  const wanted = complete ? [kind, ...names] : null;
  const opened = wanted && JSON.stringify(wanted) !== before;
  if (opened && !shown.details) shown.opener = document.activeElement;
  shown.details = wanted;
  render();
  if (shown.view === "events" && !shown.events) poll();
  if (opened || !wanted) showDetails({ focus: Boolean(opened) }).catch(() => poll());
}

function close() {
  location.hash = `#/${shown.view}`;
  const opener = shown.opener;
  shown.opener = null;
  if (opener?.isConnected) opener.focus();
  else byId("content").focus();
}

function theme() {
  const root = document.documentElement;
  const order = ["system", "light", "dark"];
  const next = order[(order.indexOf(root.dataset.theme ?? "system") + 1) % order.length];
  root.dataset.theme = next;
  byId("theme").textContent = `◐ ${next}`;
  byId("theme").setAttribute("aria-label", `Theme: ${next}`);
  graph.restyle();
}

byId("close").addEventListener("click", close);
byId("theme").addEventListener("click", theme);
byId("zoom-in").addEventListener("click", () => graph.zoom(1.3));
byId("zoom-out").addEventListener("click", () => graph.zoom(1 / 1.3));
byId("zoom-fit").addEventListener("click", () => graph.fit());
byId("links-more").addEventListener("click", () => {
  shown.limit += 500;
  render();
});
byId("search").addEventListener("input", (event) => {
  shown.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
  shown.limit = 200;
  render();
});
byId("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (shown.view === "graph" && shown.graph?.links) graph.fit(servicesOf(chosen().links));
});
document.addEventListener("keydown", (event) => {
  const writes = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape" && !writes && shown.details) close();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => graph.restyle());
addEventListener("hashchange", route);
new ResizeObserver(() => graph.resize()).observe(byId("graph"));
setInterval(() => freshness(byId("failure").hidden ? null : byId("failure").textContent.replace("This is not of now: ", "")), 1000);
window.linkwire = { graph, states: ORDER }; // for whoever looks with the browser's tools

route();
poll({ first: true }).then(loop);
