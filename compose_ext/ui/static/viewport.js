// The part of the graph that is seen: how far it is zoomed, and where its origin stands on the screen. Pure.

export const FARTHEST = 0.03;
export const CLOSEST = 2.5;

/** The view that has all these places in it; null where there are none, or no room. */
export function fitting(places, { width, height }) {
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const { x, y } of places) {
    [left, top] = [Math.min(left, x - 90), Math.min(top, y - 64)];
    [right, bottom] = [Math.max(right, x + 90), Math.max(bottom, y + 30)];
  }
  if (left > right) return null;
  const zoom = Math.min(1.2, (width - 40) / (right - left), (height - 60) / (bottom - top));
  if (zoom <= 0) return null;
  const level = Math.max(FARTHEST, zoom);
  return { zoom: level, pan: { x: (width - level * (left + right)) / 2, y: (height - level * (top + bottom)) / 2 } };
}

/** The view after a change of zoom that leaves a point of the screen where it is. */
export function zoomed({ zoom, pan }, factor, at) {
  const next = Math.min(CLOSEST, Math.max(FARTHEST, zoom * factor));
  const grown = next / zoom;
  return { zoom: next, pan: { x: at.x - (at.x - pan.x) * grown, y: at.y - (at.y - pan.y) * grown } };
}

/** How far a point is from the line between two others. */
export function distance(point, from, to) {
  const [x, y] = [to.x - from.x, to.y - from.y];
  const length = x * x + y * y;
  const part = length ? ((point.x - from.x) * x + (point.y - from.y) * y) / length : 0;
  const on = Math.min(1, Math.max(0, part));
  return Math.hypot(point.x - from.x - on * x, point.y - from.y - on * y);
}
