// The graph of few services and links, by Cytoscape. Many are drawn by canvas_graph.js: this takes seconds for them.

import { FONT, LINES, palette } from "./palette.js";
import { CLOSEST, FARTHEST, fitting } from "./viewport.js";
import { ORDER, glyph, short } from "./words.js";

let library = null;

/** Get the library, which a large graph does not need. */
export function load() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "vendor/cytoscape.min.js";
    script.onload = resolve;
    script.onerror = () => {
      library = null; // the next one tries again
      script.remove();
      reject(new Error("the graph's library could not be read"));
    };
    document.head.append(script);
  });
  return library;
}

function style() {
  const { text, quiet, surface, accent, ...colours } = palette();
  const rules = [
    {
      selector: "node.service",
      style: {
        shape: "round-rectangle", width: 152, height: 34, label: "data(label)", color: text, "font-size": 14,
        "font-family": FONT, "text-valign": "center", "text-halign": "center", "text-wrap": "ellipsis",
        "text-max-width": 140, "min-zoomed-font-size": 7, "background-color": surface, "border-width": 2,
        "border-color": quiet,
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
        "curve-style": "straight", width: 2, "line-color": quiet, opacity: 0.9, "target-arrow-shape": "triangle",
        "target-arrow-color": quiet,
      },
    },
    { selector: "edge.crosses", style: { "curve-style": "bezier" } },
  ];
  for (const state of ORDER) {
    const own = colours[state];
    rules.push(
      { selector: `node.service[state = "${state}"]`, style: { "border-color": own, color: own } },
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

export class CytoscapeGraph {
  /** @param {{open: (kind: string, ...names: string[]) => void, drawn: () => void}} told of a click; of the first frame */
  constructor(container, told) {
    this.container = container;
    this.seen = new Map();
    this.moved = false; // by the user: then the view stays where it is
    this.cy = window.cytoscape({
      container, style: style(), layout: { name: "preset" }, minZoom: FARTHEST, maxZoom: CLOSEST, boxSelectionEnabled: false,
      autounselectify: true,
    });
    this.cy.on("dragpan scrollzoom pinchzoom", () => {
      this.moved = true;
    });
    this.cy.on("tap", "node.service", (event) => told.open("service", event.target.data("name")));
    this.cy.on("tap", "edge", (event) => told.open("link", event.target.data("consumer"), event.target.data("provider")));
    this.told = told;
  }

  destroy() {
    this.cy.destroy();
  }

  update(graph) {
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
    this.cy.one("render", this.told.drawn);
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

  filter(links, services) {
    this.cy.batch(() => {
      this.cy.elements().removeClass("dim");
      if (links === null) return;
      this.cy.edges().filter((edge) => !links.has(`${edge.data("consumer")} ${edge.data("provider")}`)).addClass("dim");
      this.cy.nodes(".service").filter((node) => !services.has(node.data("name"))).addClass("dim");
    });
  }

  choose(kind, ...names) {
    this.cy.elements(".chosen").removeClass("chosen");
    const id = kind === "service" ? serviceId(names[0]) : kind === "link" ? `link ${names[0]} ${names[1]}` : "";
    if (id) this.cy.getElementById(id).addClass("chosen");
  }

  fit(services) {
    this.moved = false;
    const nodes = this.cy.nodes(".service").filter((node) => !services?.size || services.has(node.data("name")));
    // Cytoscape's own fit() measures each line and label, which takes longer than all else.
    const { clientWidth: width, clientHeight: height } = this.container;
    const view = fitting(nodes.map((node) => node.position()), { width, height });
    if (view) this.cy.viewport(view);
  }

  zoom(factor) {
    this.moved = true;
    const middle = { x: this.container.clientWidth / 2, y: this.container.clientHeight / 2 };
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: middle });
  }

  restyle() {
    this.cy.style(style());
  }

  resize() {
    this.cy.resize();
    if (!this.moved) this.fit();
  }
}
