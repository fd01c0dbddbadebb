// The graph: services where the server put them, links in the colour and line of their measured state.

import { ORDER, glyph, short } from "./words.js";

const MANY = 1500; // links; more are drawn without arrows, and as a picture while the view moves
const LINES = { broken: "dashed", unwired: "dotted", unknown: "dotted", "not-allowed": "dashed", "no-tasks": "dotted" };
const STATES = [...ORDER];

function colour(name) {
  const probe = document.createElement("span");
  probe.className = name;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function style(many) {
  const [text, quiet, surface, accent] = ["text", "quiet", "surface", "accent"].map((name) => colour(`c-${name}`));
  const rules = [
    {
      selector: "node.service",
      style: {
        shape: "round-rectangle", width: 152, height: 34, label: "data(label)", color: many ? surface : text,
        "font-size": 14, "font-family": "system-ui, DejaVu Sans, sans-serif", "text-valign": "center",
        "text-halign": "center", "text-wrap": "ellipsis", "text-max-width": 140, "min-zoomed-font-size": 7,
        "background-color": surface, "border-width": 2, "border-color": quiet,
      },
    },
    {
      selector: "node.stack",
      style: {
        width: 1, height: 1, "background-opacity": 0, label: "data(label)", color: quiet, "font-size": 20,
        "font-weight": 600, "text-halign": "right", "text-valign": "center", "min-zoomed-font-size": 8, events: "no",
      },
    },
    {
      selector: "edge",
      style: {
        "curve-style": many ? "haystack" : "straight", width: many ? 1.5 : 2, "line-color": quiet, opacity: many ? 0.6 : 0.9,
        ...(many ? { "haystack-radius": 0 } : { "target-arrow-shape": "triangle", "target-arrow-color": quiet }),
      },
    },
    { selector: "edge.crosses", style: many ? {} : { "curve-style": "bezier" } },
  ];
  for (const state of STATES) {
    const own = colour(`s-${state}`);
    rules.push(
      { selector: `node.service[state = "${state}"]`, style: { "border-color": own, ...(many ? { "background-color": own } : { color: own }) } },
      { selector: `edge[state = "${state}"]`, style: { "line-color": own, "target-arrow-color": own, "line-style": LINES[state] ?? "solid" } },
    );
  }
  rules.push(
    { selector: 'edge[state = "broken"]', style: { width: 4, opacity: 1, "z-index": 5 } },
    { selector: 'node.service[state = "broken"]', style: { "border-width": 4 } },
    { selector: ".dim", style: { opacity: 0.12 } },
    { selector: "node.chosen", style: { "border-width": 5, "border-color": accent } },
    { selector: "edge.chosen", style: { width: 6, opacity: 1, "z-index": 9 } },
  );
  return rules;
}

const serviceId = (name) => `service ${name}`;
const linkId = (link) => `link ${link.consumer} ${link.provider}`;

export class Graph {
  /** @param {(kind: string, ...names: string[]) => void} open called for what is clicked on */
  constructor(container, open) {
    this.container = container;
    this.open = open;
    this.cy = null;
    this.many = false;
    this.seen = new Map();
    this.drawn = null; // milliseconds since the page was asked for
    this.moved = false; // by the user: then the view stays where it is
  }

  /** Draw what a document says; what is there keeps its place. */
  update(graph) {
    const many = graph.links.length > MANY;
    if (!this.cy || many !== this.many) this.#start(many);
    const first = this.seen.size === 0;
    const wanted = new Map(this.#elements(graph).map((element) => [element.data.id, element]));
    this.cy.batch(() => {
      for (const id of this.seen.keys()) {
        if (!wanted.has(id)) this.cy.getElementById(id).remove();
      }
      const added = [];
      for (const [id, element] of wanted) {
        const before = this.seen.get(id);
        if (before === undefined) added.push(element);
        else if (before !== element.data.state) this.cy.getElementById(id).data(element.data);
      }
      this.cy.add(added);
    });
    this.seen = new Map([...wanted].map(([id, element]) => [id, element.data.state]));
    if (!first) return;
    this.fit();
    if (this.drawn === null) {
      this.cy.one("render", () => {
        this.drawn ??= performance.now();
      });
    }
  }

  #start(many) {
    this.cy?.destroy();
    this.seen = new Map();
    this.many = many;
    this.cy = window.cytoscape({
      container: this.container, style: style(many), layout: { name: "preset" }, minZoom: 0.03, maxZoom: 2.5,
      boxSelectionEnabled: false, autounselectify: true, hideEdgesOnViewport: false, textureOnViewport: many,
      ...(many ? { pixelRatio: 1 } : {}),
    });
    this.cy.on("dragpan scrollzoom pinchzoom", () => {
      this.moved = true;
    });
    this.cy.on("tap", "node.service", (event) => this.open("service", event.target.data("name")));
    this.cy.on("tap", "edge", (event) => this.open("link", event.target.data("consumer"), event.target.data("provider")));
  }

  #elements(graph) {
    const nodes = graph.services.map(({ name, stack, state, x, y }) => ({
      group: "nodes", classes: "service", position: { x, y },
      data: { id: serviceId(name), name, state, label: `${glyph(state)} ${short(name, stack)}` },
    }));
    const stacks = graph.stacks.map(({ name, x, y }) => ({
      group: "nodes", classes: "stack", position: { x: x - 76, y: y - 40 }, grabbable: false, selectable: false,
      data: { id: `stack ${name}`, label: name },
    }));
    const links = graph.links.map((link) => ({
      group: "edges", classes: link.consumer.split("_")[0] === link.provider.split("_")[0] ? "" : "crosses",
      data: {
        id: linkId(link), source: serviceId(link.consumer), target: serviceId(link.provider), state: link.state,
        consumer: link.consumer, provider: link.provider,
      },
    }));
    return [...stacks, ...nodes, ...links];
  }

  /** Dim what does not fit. @param {Set<string> | null} links ids that stay, null for all; @param {Set<string>} services names */
  filter(links, services) {
    if (!this.cy) return;
    this.cy.batch(() => {
      this.cy.elements().removeClass("dim");
      if (links === null) return;
      this.cy.edges().filter((edge) => !links.has(`${edge.data("consumer")} ${edge.data("provider")}`)).addClass("dim");
      this.cy.nodes(".service").filter((node) => !services.has(node.data("name"))).addClass("dim");
    });
  }

  /** Mark what the details are about. */
  choose(kind, ...names) {
    if (!this.cy) return;
    this.cy.elements(".chosen").removeClass("chosen");
    const id = kind === "service" ? serviceId(names[0]) : kind === "link" ? `link ${names[0]} ${names[1]}` : "";
    if (id) this.cy.getElementById(id).addClass("chosen");
  }

  fit(services) {
    if (!this.cy) return;
    this.moved = false;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    this.cy.nodes(".service").forEach((node) => {
      if (services?.size && !services.has(node.data("name"))) return;
      const { x, y } = node.position();
      [left, top] = [Math.min(left, x - 90), Math.min(top, y - 64)];
      [right, bottom] = [Math.max(right, x + 90), Math.max(bottom, y + 30)];
    });
    if (left > right) return;
    // Cytoscape's own fit() measures each line and label, which takes longer than all else.
    const [width, height] = [this.container.clientWidth, this.container.clientHeight];
    const zoom = Math.min(1.2, (width - 40) / (right - left), (height - 60) / (bottom - top));
    if (zoom <= 0) return; // it is not shown
    const pan = { x: (width - zoom * (left + right)) / 2, y: (height - zoom * (top + bottom)) / 2 };
    this.cy.viewport({ zoom, pan });
  }

  zoom(factor) {
    this.moved = true;
    const middle = { x: this.container.clientWidth / 2, y: this.container.clientHeight / 2 };
    this.cy?.zoom({ level: this.cy.zoom() * factor, renderedPosition: middle });
  }

  restyle() {
    this.cy?.style(style(this.many));
  }

  resize() {
    this.cy?.resize();
    if (!this.moved) this.fit();
  }
}
