// A line of the last latencies, without axes: the number beside it has the unit.

import { h } from "./dom.js";
import { ms } from "./words.js";

export function spark(values, { width = 80, height = 20, label = "Latency" } = {}) {
  if (values.length < 2) return h("span", { class: "spark none", "aria-hidden": "true" });
  const top = Math.max(...values, 1) * 1.1;
  const step = width / (values.length - 1);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${(height - 1 - (value / top) * (height - 2)).toFixed(1)}`);
  const words = `${label}: ${values.length} measurements, ${ms(Math.min(...values))} to ${ms(Math.max(...values))}`;
  return h("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": words },
    h("title", null, words),
    h("polyline", { points: points.join(" "), fill: "none", stroke: "currentColor", "stroke-width": 1.5,
      "stroke-linejoin": "round" }));
}

// The same with a scale, for the page of one workspace.
export function chart(values, { unit, label, height = 64, width = 320 }) {
  if (values.length < 2) return h("p", { class: "muted" }, `${label}: not measured yet.`);
  const top = Math.max(...values) * 1.15 || 1;
  const step = width / (values.length - 1);
  const y = (value) => height - 2 - (value / top) * (height - 14);
  const points = values.map((value, at) => `${(at * step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const words = `${label}: now ${unit(values[values.length - 1])}, at most ${unit(Math.max(...values))}`;
  return h("figure", { class: "chart" },
    h("figcaption", null, h("span", null, label), h("span", { class: "number" }, unit(values[values.length - 1]))),
    h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": words, preserveAspectRatio: "none" },
      h("line", { class: "grid", x1: 0, x2: width, y1: height - 2, y2: height - 2 }),
      h("line", { class: "grid", x1: 0, x2: width, y1: y(Math.max(...values)), y2: y(Math.max(...values)) }),
      h("path", { class: "area", d: `M0,${height - 2} L${points.replaceAll(" ", " L")} L${width},${height - 2} Z` }),
      h("polyline", { class: "curve", points, fill: "none", "vector-effect": "non-scaling-stroke" })),
    h("p", { class: "scale muted" }, `max ${unit(Math.max(...values))} · min ${unit(Math.min(...values))}`));
}
