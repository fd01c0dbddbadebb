// The graph: services where the server put them, links in the colour and line of their measured state. Few are drawn by
// Cytoscape, many on a canvas of our own; both do what is said here.

import { CanvasGraph } from "./canvas_graph.js";
import { CytoscapeGraph, load } from "./cytoscape_graph.js";

const MANY = 500; // links

export class Graph {
  /**
   * @param {(kind: string, ...names: string[]) => void} open called for what is clicked on
   * @param {() => void} again called when a graph can be drawn that could not be at its update
   */
  constructor(container, open, again) {
    this.container = container;
    this.again = again;
    this.drawing = null;
    this.drawn = null; // milliseconds since the page was asked for
    const drawn = () => {
      this.drawn ??= performance.now();
    };
    this.told = { open, drawn };
  }

  /** Cytoscape's own graph, for whoever looks with the browser's tools; null where it does not draw. */
  get cy() {
    return this.drawing?.cy ?? null;
  }

  /** Draw what a document says; what is there keeps its place. */
  update(graph) {
    const Drawing = graph.links.length > MANY ? CanvasGraph : CytoscapeGraph;
    if (Drawing === CytoscapeGraph && !window.cytoscape) {
      load().then(this.again, () => {}); // the page tells that its server does not answer
      return;
    }
    if (!(this.drawing instanceof Drawing)) {
      this.drawing?.destroy();
      this.drawing = new Drawing(this.container, this.told);
    }
    this.drawing.update(graph);
  }

  /** Dim what does not fit. @param {Set<string> | null} links ids that stay, null for all; @param {Set<string>} services names */
  filter(links, services) {
    this.drawing?.filter(links, services);
  }

  /** Mark what the details are about. */
  choose(kind, ...names) {
    this.drawing?.choose(kind, ...names);
  }

  /** Show all, or what is around these services. */
  fit(services) {
    this.drawing?.fit(services);
  }

  zoom(factor) {
    this.drawing?.zoom(factor);
  }

  /** Take the colours of another theme. */
  restyle() {
    this.drawing?.restyle();
  }

  /** Fill the room that there is now. */
  resize() {
    this.drawing?.resize();
  }
}
