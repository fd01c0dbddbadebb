// The details beside a view: one link with its pairs, one service, one node.

import { age, amount, el, meaning, moment, number, rank, rate, renewed, stateMark, task } from "./words.js";

const byId = (id) => document.getElementById(id);

/** A list of facts; those without a value are left out. */
function facts(rows) {
  const found = rows.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return el("dl", {}, ...found.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

const traffic = (one) => `${rate(one.received_rate)} received, ${rate(one.sent_rate)} sent`;
const anchor = (address, kind, name) => el("a", { href: address(kind, name) }, name);
const linkName = (link) => `${link.consumer} → ${link.provider}`;

function pairCard(pair, address, named) {
  return el("li", {},
    named ? el("div", {}, el("a", { href: address("link", pair.consumer, pair.provider) }, linkName(pair))) : null,
    stateMark(pair.state),
    el("div", {}, `${task(pair.consumer_task)} on `, anchor(address, "node", pair.consumer_node), " →"),
    el("div", {}, `${task(pair.provider_task)} on `, anchor(address, "node", pair.provider_node)),
    facts([
      ["Since", pair.lasting === null ? null : age(pair.lasting)],
      ["Handshake", age(pair.handshake_age)],
      ["Now", traffic(pair)],
      ["In all", `${amount(pair.received)} received, ${amount(pair.sent)} sent`],
    ]),
    pair.error ? el("p", { class: "error" }, pair.error) : null);
}

function refusals(link) {
  const by = link.refused_by;
  if (!by) return number(link.refused);
  const ends = ["consumer", "provider"].map((end) => `${link[end]} ${number(by[end].in)} coming in, ${number(by[end].out)} going out`);
  return `${number(link.refused)} packets: ${ends.join("; ")}`;
}

const command = (text) => el("p", {}, el("code", {}, text));
const stack = (name) => (name.includes("_") ? ` ${name.split("_")[0]}` : "");
const upTo = (cards, count) => [...cards, count > cards.length ? el("li", {}, `and ${number(count - cards.length)} more`) : null];

function ofLink(link, address) {
  const own = link.key === `${link.consumer}:${link.provider}`;
  return [
    el("p", {}, stateMark(link.state), ` ${meaning(link.state)}`),
    facts([
      ["Consumer", anchor(address, "service", link.consumer)],
      ["Provider", anchor(address, "service", link.provider)],
      ["Names", link.aliases.join(", ")],
      ["Ports", link.ports],
      ["VIP", [link.vip, link.vip6].filter(Boolean).join(", ")],
      ["Key", link.key ? `${own ? "its own" : link.key}${link.epoch === null ? "" : `, renewed ${moment(renewed(link.epoch))}`}` : null],
      ["Now", traffic(link)],
      ["Refused", refusals(link)],
    ]),
    el("h3", {}, `Pairs of tasks (${number(link.pairs_count)})`),
    el("ul", { class: "cards" }, ...upTo(link.pairs.map((pair) => pairCard(pair, address, false)), link.pairs_count)),
    el("h3", {}, "In a terminal"),
    command(`docker linkwire explain ${link.consumer} ${link.provider}`),
    command(`docker linkwire ps${stack(link.consumer)}`),
  ];
}

function ofService(service, address) {
  const side = (end, other) => service.links.filter((link) => link[end] === service.name).map((link) =>
    el("li", {}, stateMark(link.state), " ", el("a", { href: address("link", link.consumer, link.provider) }, link[other]), el("div", {}, traffic(link))));
  const [uses, users] = [side("consumer", "provider"), side("provider", "consumer")];
  const list = (title, cards, count = cards.length) =>
    count ? [el("h3", {}, `${title} (${number(count)})`), el("ul", { class: "cards" }, ...upTo(cards, count))] : [];
  return [
    el("p", {}, stateMark(service.state), ` ${meaning(service.state)}`),
    facts([["Refused outside its links", `${number(service.apart)} packets`]]),
    ...list("Links to", uses),
    ...list("Linked from", users),
    ...list("Tasks", service.tasks.map((one) => el("li", {}, `${task(one.task)} on `, anchor(address, "node", one.node))), service.tasks_count),
  ];
}

/** A node's part in node encryption as facts; none where all of it is off. */
function encryptionFacts(part) {
  if (!part) return [];
  return [
    ["Encryption", part.why_not || `${part.step}, reaches ${number(part.ready)} of ${number(part.peers)} nodes`],
    ["Oldest handshake", part.peers ? age(part.handshake_age) : null],
    ["Its devices", part.peers ? `${amount(part.received)} received, ${amount(part.sent)} sent` : null],
    ["Plain, refused", part.refused ? `${number(part.refused)} packets` : null],
    ["Problem", part.problem],
  ];
}

function ofNode(node, address) {
  const states = Object.entries(node.states).sort(([a], [b]) => rank(a) - rank(b)).map(([state, count]) => el("span", {}, stateMark(state), ` ${number(count)}  `));
  return [
    el("p", {}, ...(states.length ? states : ["No pair of tasks has an end here."])),
    facts([
      ["Address", node.address],
      ["Keys", node.accepted === null ? null : node.accepted ? "accepted" : "not accepted"],
      ["Proof", node.unproven],
      ["Tasks", number(node.tasks_count)],
      ...encryptionFacts(node.encryption),
    ]),
    el("h3", {}, `Pairs (${number(node.pairs_count)})`),
    el("ul", { class: "cards" }, ...upTo(node.pairs.map((pair) => pairCard(pair, address, true)), node.pairs_count)),
    el("h3", {}, "Tasks"),
    el("ul", { class: "cards" }, ...upTo(node.tasks.map((one) => el("li", {}, `${task(one.task)} of `, anchor(address, "service", one.service))), node.tasks_count)),
  ];
}

const MAKE = { link: ofLink, service: ofService, node: ofNode };

/** Show an answer of the server; what had the focus in it has it again. */
export function details(kind, names, answer, address) {
  const body = byId("details-body");
  const focused = body.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  const title = kind === "link" ? names.join(" → ") : names[0];
  if (byId("details-title").textContent !== title) byId("details-title").textContent = title;
  body.replaceChildren(...(answer.error ? [el("p", {}, `There is ${answer.error}.`)] : MAKE[kind](answer, address)));
  if (focused !== null) [...body.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus({ preventScroll: true });
}
