// Colours of the theme that is on, for pictures that no style sheet reaches, and the dashes of a state's lines.

import { ORDER } from "./words.js";

export const FONT = "system-ui, DejaVu Sans, sans-serif";
export const LINES = { broken: "dashed", unwired: "dotted", unknown: "dotted", "not-allowed": "dashed", "no-tasks": "dotted" };
const THEME = ["text", "quiet", "surface", "accent"];

/** Read the colours, those of states under their names. */
export function palette() {
  const probes = document.createElement("div");
  probes.className = "hidden";
  const classes = new Map([...THEME.map((name) => [name, `c-${name}`]), ...ORDER.map((state) => [state, `s-${state}`])]);
  for (const name of classes.values()) {
    const probe = document.createElement("span");
    probe.className = name;
    probes.append(probe);
  }
  document.body.append(probes); // all at once: the browser computes styles once
  const found = [...classes.keys()].map((name, number) => [name, getComputedStyle(probes.children[number]).color]);
  probes.remove();
  return Object.fromEntries(found);
}
