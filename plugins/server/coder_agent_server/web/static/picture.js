// The path picture: you – relay – workspace. The line that carries the packets is drawn, thick as its throughput.

import { h } from "./dom.js";
import { loss, ms, pathWords, rate } from "./words.js";

const GATES = {
  hard: "hard NAT: another port for each destination",
  easy: "NAT: one port for all destinations",
  blocked: "no UDP gets through",
};

// Ways on which a NAT at either end is not met.
const WITHOUT_GATES = new Set(["direct_lan", "direct_ipv6", "direct_public"]);

// `you`, `workspace`, `relay` are names; `path`: as the API tells it, or null when nobody is connected.
export function picture({ you, yours, workspace, address, relay, path, control, leg, width }) {
  const narrow = width < 560;
  const height = narrow ? 190 : 200;
  const left = narrow ? 44 : 96;
  const right = width - left;
  const middle = width / 2;
  const bottom = height - (narrow ? 66 : 64);
  const top = 40;
  const kind = path ? path.kind : "none";
  const searching = !path || kind === "none";
  const thick = path ? thickness(path.rate.rx + path.rate.tx) : 2;
  const gates = path && !WITHOUT_GATES.has(path.verdict && path.verdict.code);
  const words = describe(you, workspace, path, control);
  return h("svg", { class: `picture ${kind}`, viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": words },
    // the two ways: the one in use is strong, the other a hint
    way(`M${left},${bottom} L${right},${bottom}`, "straight", kind === "direct" ? "used direct" : searching && path ? "probing" : "unused", thick),
    way(`M${left},${bottom} C${left + 40},${top} ${middle - 60},${top} ${middle},${top} C${middle + 60},${top} ${right - 40},${top} ${right},${bottom}`,
      "bent", kind === "relayed" ? "used relayed" : "unused", thick),
    place(left, bottom, you, yours, path ? "on" : "off", narrow ? "start" : "middle", narrow ? 12 : left),
    place(right, bottom, workspace, address, "on", narrow ? "end" : "middle", narrow ? width - 12 : right),
    station(middle, top, relay, kind === "relayed"),
    gates && gate(left + (narrow ? 34 : 44), bottom, path.peer_nat, "Your side: "),
    gates && gate(right - (narrow ? 34 : 44), bottom, path.nat, "The workspace's side: "),
    label(middle, kind === "relayed" ? top + 46 : bottom - 14, path, searching, leg));
}

function way(d, key, kind, thick) {
  return h("path", { key, d, class: `way ${kind}`, "stroke-width": kind.startsWith("used") ? thick : 1.5, fill: "none" });
}

// 2 px for nothing, 8 px for 100 MB/s and more; by the logarithm, for rates differ by powers of ten.
function thickness(bytesPerSecond) {
  return bytesPerSecond < 1000 ? 2 : Math.min(8, 2 + (Math.log10(bytesPerSecond) - 3) * 1.2).toFixed(1);
}

function place(x, y, name, more, kind, anchor, at) {
  return h("g", { class: `place ${kind}` },
    h("circle", { cx: x, cy: y, r: 8 }),
    h("text", { x: at, y: y + 30, "text-anchor": anchor, class: "who" }, name),
    h("text", { x: at, y: y + 48, "text-anchor": anchor, class: "more" }, more || ""));
}

function station(x, y, name, used) {
  return h("g", { class: `station ${used ? "on" : "off"}` },
    h("rect", { x: x - 7, y: y - 7, width: 14, height: 14, rx: 3 }),
    h("text", { x, y: y - 16, "text-anchor": "middle", class: used ? "who" : "more" }, name));
}

function gate(x, y, kind, whose) {
  if (!GATES[kind]) return null;
  return h("g", { class: `gate ${kind}`, key: `gate ${whose}` },
    h("title", null, whose + GATES[kind]),
    h("path", { d: `M${x - 3},${y - 13} v26 M${x + 3},${y - 13} v26` }),
    h("text", { x, y: y - 20, "text-anchor": "middle", class: "more" }, kind === "hard" ? "hard NAT" : kind === "blocked" ? "no UDP" : "NAT"));
}

function label(x, y, path, searching, leg) {
  if (!path) return null;
  const total = path.rate.rx + path.rate.tx;
  const parts = searching ? [path.verdict ? "looking for a path" : "not in use"]
    : [latency(path, leg), loss(path.loss), total >= 1 ? rate(total) : null].filter(Boolean);
  return h("text", { x, y, "text-anchor": "middle", class: `label${path.loss >= 0.02 ? " bad" : ""}` }, parts.join(" · "));
}

// Until the whole way over a relay is measured, how far the workspace is from the relay is known.
function latency(path, leg) {
  if (path.latency_ms !== null) return ms(path.latency_ms);
  return leg === undefined || leg === null ? null : `relay – workspace ${ms(leg)}`;
}

function describe(you, workspace, path, control) {
  if (!path) return `Nobody is connected to ${workspace}. This server reaches its agent in ${ms(control)}.`;
  const met = WITHOUT_GATES.has(path.verdict && path.verdict.code) ? [] : [["your side", path.peer_nat], ["the workspace's side", path.nat]];
  const gates = met.filter(([, kind]) => GATES[kind])
    .map(([side, kind]) => ` On ${side}: ${GATES[kind]}.`).join("");
  return `${you} to ${workspace}: ${pathWords(path)}${path.latency_ms === null ? "" : `, ${ms(path.latency_ms)}`}${path.loss === null ? "" : `, ${loss(path.loss)}`}, ${rate(path.rate.rx + path.rate.tx)}.${gates}`;
}
