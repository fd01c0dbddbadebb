// Mouse, fingers and wheel on an element, told as what they mean: a drag, a tap, a zoom.

const STILL = 4; // pixels that a tap may slip
const NOTCH = 200; // pixels of the wheel for twice the size

const at = (event) => ({ x: event.offsetX, y: event.offsetY });
const middle = ([a, b]) => ({ x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 });
const apart = ([a, b]) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));

function factor(event) {
  const pixels = event.deltaY * (event.deltaMode ? 33 : 1); // some browsers count lines
  return Math.min(2, Math.max(0.5, 2 ** (-pixels / (event.ctrlKey ? NOTCH / 5 : NOTCH)))); // with Ctrl: a touchpad's pinch
}

/**
 * Tell what is done on an element until a signal aborts it.
 * @param {{grab: Function, drag: Function, tap: Function, zoom: Function}} told
 *   grab(at) returns what is held there, drag(held, x, y) moves it (or, null, the view), tap(at), zoom(factor, at)
 */
export function watch(element, told, signal) {
  const fingers = new Map(); // by pointer, where each is
  let [held, start] = [null, null]; // start: null once it is no tap
  const listen = (name, act) => element.addEventListener(name, act, { signal, passive: false });

  listen("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, at(event));
    [held, start] = fingers.size === 1 ? [told.grab(at(event)), at(event)] : [null, null];
  });
  listen("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = at(event);
    if (start && Math.hypot(now.x - start.x, now.y - start.y) < STILL) return;
    start = null;
    const old = [...fingers.values()];
    fingers.set(event.pointerId, now);
    const [from, to] = [old, [...fingers.values()]].map((places) => (places.length === 2 ? middle(places) : null));
    if (!from) {
      if (fingers.size === 1) told.drag(held, now.x - before.x, now.y - before.y);
      return;
    }
    told.drag(null, to.x - from.x, to.y - from.y);
    told.zoom(apart([...fingers.values()]) / apart(old), to);
  });
  const lift = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (start && event.type === "pointerup") told.tap(start);
    [held, start] = [null, null]; // the finger that stays moves the view
  };
  listen("pointerup", lift);
  listen("pointercancel", lift);
  listen("wheel", (event) => {
    event.preventDefault();
    told.zoom(factor(event), at(event));
  });
}
