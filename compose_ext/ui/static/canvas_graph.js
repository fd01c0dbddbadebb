// The graph of many services and links, on one canvas. Each frame draws all that is seen: a few milliseconds for 5,000
// links, and no element of them is kept but its place and state.

import { watch } from "./gestures.js";
import { FONT, LINES, palette } from "./palette.js";
import { distance, fitting, zoomed } from "./viewport.js";
import { glyph, rank, short } from "./words.js";

const BOX = { width: 152, height: 34, text: 140, font: 14 };
const STACK = { x: -76, y: -25, font: 20, room: 90 }; // its name above its first service
const NAMED = 0.5; // the zoom from which a service has its name; from farther away it is a bar in its state's colour
const POINTED = 0.3; // the zoom from which a link has an arrow
const SMALLEST = 8; // pixels of a letter
const DASHES = { dashed: [6, 4], dotted: [2, 3] };
const FAINT = 0.12; // what does not fit the search
const NEAR = 5; // pixels from a line that a tap may miss it by
const AT_ONCE = 100; // lines of one path: far longer ones are slower, each line is compared with all others

const worstLast = (a, b) => rank(b.state) - rank(a.state);

export class CanvasGraph {
  /** @param {{open: (kind: string, ...names: string[]) => void, drawn: () => void}} told of a tap; of the first frame */
  constructor(container, told) {
    this.container = container;
    this.told = told;
    this.canvas = container.appendChild(document.createElement("canvas"));
    this.context = this.canvas.getContext("2d");
    this.colours = palette();
    this.services = new Map(); // by name: its place, its state, and x and y on the screen of the last frame
    this.stacks = new Map(); // by name: its place
    this.groups = []; // links by state, the worst last, so that they lie above
    this.chosen = [];
    this.view = { zoom: 1, pan: { x: 0, y: 0 } };
    this.size = { width: 0, height: 0 };
    this.moved = false; // by the user: then the view stays where it is
    this.frame = 0; // the one that was asked for
    this.isDrawn = false;
    this.ended = new AbortController();
    watch(this.canvas, { grab: (at) => this.#serviceAt(at), drag: this.#drag, tap: this.#tap, zoom: this.#zoom }, this.ended.signal);
    this.resize();
  }

  destroy() {
    this.ended.abort();
    cancelAnimationFrame(this.frame);
    this.canvas.remove();
  }

  update(graph) {
    const first = !this.services.size;
    const before = this.services;
    const services = graph.services.map(({ name, stack, state, x, y }) => {
      const service = before.get(name) ?? { name, stack, at: { x, y }, x: 0, y: 0, dim: false };
      if (service.state !== state) Object.assign(service, { state, label: `${glyph(state)} ${short(name, stack)}`, cut: null });
      return service;
    });
    this.services = new Map(services.sort(worstLast).map((service) => [service.name, service]));
    this.stacks = new Map(graph.stacks.map(({ name, x, y }) => [name, this.stacks.get(name) ?? { x: x + STACK.x, y: y + STACK.y }]));
    const groups = new Map();
    for (const { consumer, provider, state } of graph.links) {
      if (!groups.has(state)) groups.set(state, { state, links: [] });
      const [from, to] = [this.services.get(consumer), this.services.get(provider)];
      groups.get(state).links.push({ consumer, provider, from, to, state, dim: false });
    }
    this.groups = [...groups.values()].sort(worstLast);
    if (first) this.fit();
    this.#ask();
  }

  filter(links, services) {
    for (const group of this.groups) {
      for (const link of group.links) link.dim = links !== null && !links.has(`${link.consumer} ${link.provider}`);
    }
    for (const service of this.services.values()) service.dim = links !== null && !services.has(service.name);
    this.#ask();
  }

  choose(...chosen) {
    this.chosen = chosen;
    this.#ask();
  }

  fit(services) {
    this.moved = false;
    const wanted = [...this.services.values()].filter((service) => !services?.size || services.has(service.name));
    this.view = fitting(wanted.map((service) => service.at), this.size) ?? this.view;
    this.#ask();
  }

  zoom(factor) {
    this.#zoom(factor, { x: this.size.width / 2, y: this.size.height / 2 });
  }

  restyle() {
    this.colours = palette();
    this.#ask();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.container;
    const [across, down] = [width, height].map((side) => Math.round(side * devicePixelRatio));
    if (!width || (across === this.canvas.width && down === this.canvas.height)) return;
    this.size = { width, height };
    [this.canvas.width, this.canvas.height] = [across, down];
    if (!this.moved) this.fit();
    this.#draw(); // at once: with its new size it is empty
  }

  /** Where a service is on the screen, from the canvas's corner. */
  placeOf(name) {
    return this.#onScreen(this.services.get(name).at);
  }

  #onScreen({ x, y }) {
    const { zoom, pan } = this.view;
    return { x: x * zoom + pan.x, y: y * zoom + pan.y };
  }

  #drag = (service, x, y) => {
    const { zoom, pan } = this.view;
    if (service) service.at = { x: service.at.x + x / zoom, y: service.at.y + y / zoom };
    else [this.moved, this.view] = [true, { zoom, pan: { x: pan.x + x, y: pan.y + y } }];
    this.#ask();
  };

  #zoom = (factor, at) => {
    [this.moved, this.view] = [true, zoomed(this.view, factor, at)];
    this.#ask();
  };

  #tap = (at) => {
    const service = this.#serviceAt(at);
    const link = service ? null : this.#linkAt(at);
    if (service) this.told.open("service", service.name);
    else if (link) this.told.open("link", link.consumer, link.provider);
  };

  #serviceAt(at) {
    const [x, y] = [BOX.width, BOX.height].map((side) => Math.max(3, (side * this.view.zoom) / 2));
    const under = (service) => Math.abs(service.x - at.x) <= x && Math.abs(service.y - at.y) <= y;
    return [...this.services.values()].findLast(under) ?? null;
  }

  #linkAt(at) {
    let [nearest, found] = [NEAR, null];
    for (const link of this.groups.flatMap((group) => group.links)) {
      const far = distance(at, link.from, link.to);
      if (far <= nearest) [nearest, found] = [far, link]; // of two on one line the worse
    }
    return found;
  }

  #ask() {
    this.frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { context, size } = this;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, size.width, size.height);
    for (const service of this.services.values()) Object.assign(service, this.#onScreen(service.at));
    for (const dim of [true, false]) for (const group of this.groups) this.#lines(group, dim);
    this.#chosenLine();
    if (this.view.zoom < NAMED) this.#bars();
    else this.#boxes();
    this.#stackNames();
    context.globalAlpha = 1;
    if (this.isDrawn || !this.services.size) return;
    this.isDrawn = true;
    setTimeout(this.told.drawn); // when this frame is on the screen
  }

  #isSeen(from, to, margin) {
    const { width, height } = this.size;
    return (
      Math.max(from.x, to.x) > -margin && Math.min(from.x, to.x) < width + margin &&
      Math.max(from.y, to.y) > -margin && Math.min(from.y, to.y) < height + margin
    );
  }

  #lines({ state, links }, dim) {
    const { context, view: { zoom } } = this;
    const seen = links.filter((link) => link.dim === dim && this.#isSeen(link.from, link.to, 9));
    if (!seen.length) return;
    const isBroken = state === "broken";
    context.strokeStyle = context.fillStyle = this.colours[state] ?? this.colours.text;
    context.lineWidth = isBroken ? Math.max(1, 4 * zoom) : Math.max(0.4, 2 * zoom);
    context.globalAlpha = dim ? FAINT : isBroken ? 1 : 0.75;
    this.#strokes(seen, DASHES[LINES[state]] ?? []);
    if (zoom >= POINTED) this.#arrows(seen);
  }

  #strokes(links, dashes) {
    const { context } = this;
    context.setLineDash(dashes);
    for (let start = 0; start < links.length; start += AT_ONCE) {
      context.beginPath();
      for (const { from, to } of links.slice(start, start + AT_ONCE)) {
        context.moveTo(from.x, from.y);
        context.lineTo(to.x, to.y);
      }
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** Arrowheads where lines meet the boxes that they lead to. */
  #arrows(links) {
    const { context, view: { zoom } } = this;
    const [length, half] = [12 * zoom, 5 * zoom];
    context.beginPath();
    for (const { from, to } of links) {
      const whole = Math.hypot(to.x - from.x, to.y - from.y);
      if (whole < length) continue;
      const [x, y] = [(to.x - from.x) / whole, (to.y - from.y) / whole];
      const inside = Math.min((BOX.width * zoom) / 2 / Math.abs(x), (BOX.height * zoom) / 2 / Math.abs(y));
      const tip = { x: to.x - x * inside, y: to.y - y * inside };
      context.moveTo(tip.x, tip.y);
      context.lineTo(tip.x - x * length - y * half, tip.y - y * length + x * half);
      context.lineTo(tip.x - x * length + y * half, tip.y - y * length - x * half);
    }
    context.fill();
  }

  #chosenLine() {
    const [kind, consumer, provider] = this.chosen;
    if (kind !== "link") return;
    const [from, to] = [this.services.get(consumer), this.services.get(provider)];
    const state = this.groups.find(({ links }) => links.some((link) => link.consumer === consumer && link.provider === provider))?.state;
    if (!state) return; // it is there no longer
    this.context.strokeStyle = this.context.fillStyle = this.colours[state] ?? this.colours.text;
    this.context.lineWidth = Math.max(3, 6 * this.view.zoom);
    this.context.globalAlpha = 1;
    this.#strokes([{ from, to }], DASHES[LINES[state]] ?? []);
    this.#arrows([{ from, to }]);
  }

  #isChosen(service) {
    return this.chosen[0] === "service" && this.chosen[1] === service.name;
  }

  #bars() {
    const { context, view: { zoom } } = this;
    for (const service of this.services.values()) {
      const grown = service.state === "broken" ? 2 : 0; // wider, not only red
      const [width, height] = [BOX.width * zoom + grown, Math.max(2, BOX.height * zoom) + grown];
      const [left, top] = [service.x - width / 2, service.y - height / 2];
      context.globalAlpha = service.dim ? FAINT : 1;
      context.fillStyle = this.colours[service.state] ?? this.colours.text;
      context.fillRect(left, top, width, height);
      if (!this.#isChosen(service)) continue;
      [context.globalAlpha, context.lineWidth, context.strokeStyle] = [1, 3, this.colours.accent];
      context.strokeRect(left - 4, top - 4, width + 8, height + 8);
    }
  }

  #boxes() {
    const { context, view: { zoom } } = this;
    const [width, height] = [BOX.width * zoom, BOX.height * zoom];
    const seen = [...this.services.values()].filter((service) => this.#isSeen(service, service, width));
    context.font = `${BOX.font}px ${FONT}`;
    for (const service of seen) service.cut ??= this.#cut(service.label);
    context.font = `${BOX.font * zoom}px ${FONT}`;
    [context.textAlign, context.textBaseline] = ["center", "middle"];
    for (const service of seen) {
      const isChosen = this.#isChosen(service);
      const own = this.colours[service.state] ?? this.colours.text;
      context.globalAlpha = service.dim && !isChosen ? FAINT : 1;
      context.beginPath();
      context.roundRect(service.x - width / 2, service.y - height / 2, width, height, 6 * zoom);
      context.fillStyle = this.colours.surface;
      context.fill();
      context.lineWidth = (isChosen ? 5 : service.state === "broken" ? 4 : 2) * zoom;
      context.strokeStyle = isChosen ? this.colours.accent : own;
      context.stroke();
      context.fillStyle = own;
      context.fillText(service.cut, service.x, service.y);
    }
  }

  /** As much of a label as its box has room for. */
  #cut(label) {
    let cut = label;
    for (let end = label.length - 1; this.context.measureText(cut).width > BOX.text && end; end -= 1) cut = `${label.slice(0, end)}…`;
    return cut;
  }

  #stackNames() {
    const { context, view: { zoom } } = this;
    const size = Math.max(STACK.font * zoom, Math.min(11, STACK.room * zoom)); // from far away as much as fits between stacks
    if (size < SMALLEST) return;
    context.globalAlpha = 1;
    context.font = `600 ${size}px ${FONT}`;
    [context.textAlign, context.textBaseline, context.fillStyle] = ["left", "bottom", this.colours.quiet];
    for (const [name, place] of this.stacks) {
      const at = this.#onScreen(place);
      if (this.#isSeen({ x: at.x, y: at.y }, { x: at.x + 40 * size, y: at.y }, size)) context.fillText(name, at.x, at.y);
    }
  }
}
