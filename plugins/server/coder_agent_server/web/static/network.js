// How healthy is the whole?

import { h } from "./dom.js";
import { data, facts, redraw, start } from "./page.js";
import { call, code, fault, line, mark, section, time } from "./parts.js";
import { bytes, ms, span } from "./words.js";

let state = data;
let checking = false;
let problem = "";

const SEVERITY = { ok: "direct", warning: "degraded", error: "degraded" };

function show() {
  return [
    answer(), regions(),
    h("div", { class: "columns", key: "columns" },
      h("div", { class: "wide" }, day(), health()), h("div", { class: "side" }, relay(), shell())),
  ];
}

function answer() {
  const { direct_seconds: direct, relayed_seconds: relayed } = state.day;
  const total = direct + relayed;
  return h("div", { class: "answer", key: "answer" },
    h("h1", null, total ? [h("span", { class: "big" }, `${((direct / total) * 100).toFixed(1)} %`), " direct over the last day"]
      : [h("span", { class: "big" }, String(state.agents)), state.agents === 1 ? " agent in the network" : " agents in the network"]),
    h("p", { class: "muted" }, total ? `${span(direct)} of connections in use were direct, ${span(relayed)} relayed.`
      : "Nobody used a connection in the last day, so there is no share of direct ones yet."));
}

function regions() {
  const names = ["Region", "Relays", "This server", "Agents: best", "median", "worst", "Home of"];
  const worst = Math.max(1, ...state.regions.map((one) => (one.agents ? one.agents.median : 0)));
  return section("Regions", "regions", null, h("table", { class: "rows", role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, names.map((name, at) => h("th", { scope: "col", role: "columnheader", class: at > 1 ? "number" : null }, name)))),
    h("tbody", { role: "rowgroup" }, state.regions.map((one) => h("tr", { key: one.id, role: "row" },
      h("th", { scope: "row", role: "rowheader" }, mark(one.server ? SEVERITY[one.server.severity] || "searching" : one.agents ? "direct" : "searching"),
        h("strong", null, one.name), h("span", { class: "muted" }, ` ${one.code || one.id}`)),
      h("td", { role: "cell", "data-name": "Relays" }, h("code", null, one.hosts.join(" ") || "–")),
      number("This server", one.server && one.server.ms !== null ? ms(one.server.ms) : "–"),
      number("Best", one.agents ? ms(one.agents.best) : "–"),
      number("Median", one.agents ? [bar(one.agents.median / worst), ms(one.agents.median)] : "–"),
      number("Worst", one.agents ? ms(one.agents.worst) : "–"),
      number("Home of", `${one.home_of}`))))));
}

function number(name, ...value) {
  return h("td", { role: "cell", class: "number", "data-name": name }, value);
}

function bar(share) {
  return h("svg", { class: "bar-of", width: 40, height: 8, "aria-hidden": "true" }, h("rect", { width: Math.max(1, share * 40), height: 8 }));
}

function day() {
  const { hours, causes, direct_seconds: direct, relayed_seconds: relayed } = state.day;
  const total = direct + relayed;
  if (!total) {
    return section("Direct or relayed", "day", null, h("p", { class: "muted" }, "This fills as soon as somebody connects:"), line("coder ping NAME", "connect to a workspace"));
  }
  return section("Direct or relayed", "day", null, hourly(hours),
    h("table", { class: "rows", role: "table" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Why", "Share", "For"].map((name, at) => h("th", { scope: "col", role: "columnheader", class: at ? "number" : null }, name)))),
      h("tbody", { role: "rowgroup" }, causes.slice(0, 12).map((one) => h("tr", { key: one.kind + one.cause, role: "row" },
        h("th", { scope: "row", role: "rowheader" }, mark(one.kind), one.kind, " ", code(one.cause)),
        number("Share", `${((one.seconds / total) * 100).toFixed(1)} %`), number("For", span(one.seconds)))))),
    h("p", { class: "muted hint" }, "What each cause means and what makes it direct: ", h("code", null, "coder path NAME")));
}

function hourly(hours) {
  const most = Math.max(...hours.map(([direct, relayed]) => direct + relayed), 1);
  const words = hours.map(([direct, relayed], at) => (direct + relayed ? `${24 - at} h ago: ${span(direct)} direct, ${span(relayed)} relayed` : "")).filter(Boolean).join("; ");
  return h("figure", { class: "chart hours" },
    h("svg", { viewBox: "0 0 240 48", role: "img", "aria-label": words, preserveAspectRatio: "none" },
      h("line", { class: "grid", x1: 0, x2: 240, y1: 47.5, y2: 47.5 }),
      hours.map(([direct, relayed], at) => {
        const d = (direct / most) * 46;
        const r = (relayed / most) * 46;
        return h("g", null, h("rect", { class: "direct", x: at * 10 + 1, width: 8, y: 47 - d, height: d }), h("rect", { class: "relayed", x: at * 10 + 1, width: 8, y: 47 - d - r, height: r }));
      })),
    h("figcaption", { class: "scale muted" }, h("span", null, "24 h ago"), h("span", null, mark("direct"), " direct  ", mark("relayed"), " relayed"), h("span", null, "now")));
}

function health() {
  if (!state.health) return null;
  const check = h("button", { type: "button", disabled: checking, onclick: look }, checking ? "Checking…" : "Check now");
  const { at, sections } = state.health;
  return section("Health", "health", check, fault(problem),
    sections.length ? h("p", { class: "muted" }, "Checked ", time(at), ".") : h("p", { class: "muted" }, "Nobody asked since this server was started. A check takes a few seconds."),
    h("ul", { class: "list checks" }, sections.map((one) => h("li", { key: one.name },
      h("div", null, mark(SEVERITY[one.severity], one.severity), h("strong", null, one.title), h("span", { class: "muted" }, ` ${one.severity}${one.dismissed ? ", dismissed" : ""}`)),
      one.remarks.map((remark) => h("div", { class: "remark" }, h("p", null, code(remark.code, "health"), " ", remark.message),
        remark.remedy ? h("p", { class: "muted" }, `What to do: ${remark.remedy}.`) : null))))),
    line("coder health --force", "check in a shell"));
}

async function look() {
  checking = true;
  problem = "";
  redraw();
  try {
    await call("GET", "/debug/health?force=true");
    state = await call("GET", "/dashboard/network");
  } catch (error) {
    problem = error.message;
  }
  checking = false;
  redraw();
}

const LOAD = [["clients", "peers connected"], ["home_clients", "of them at home here"], ["connections", "connections"], ["mesh_clients", "known by its mesh"]];

function relay() {
  if (!state.relay) return null;
  const load = state.relay;
  const drops = Object.entries(load).filter(([name]) => name.startsWith("drop_"));
  return section("This server's relay", "relay", null, h("dl", { class: "facts" },
    LOAD.filter(([name]) => name in load).map(([name, words]) => h("div", null, h("dt", null, words), h("dd", { class: "number" }, load[name]))),
    "bytes_forwarded" in load ? h("div", null, h("dt", null, "forwarded"), h("dd", { class: "number" }, bytes(load.bytes_forwarded))) : null,
    "frames_forwarded" in load ? h("div", null, h("dt", null, "packets forwarded"), h("dd", { class: "number" }, load.frames_forwarded.toLocaleString("en"))) : null,
    drops.map(([name, count]) => h("div", null, h("dt", null, `dropped: ${name.slice(5).replaceAll("_", " ")}`), h("dd", { class: "number" }, count))),
    h("div", null, h("dt", null, "clients of this server"), h("dd", { class: "number" }, state.clients))));
}

function shell() {
  return section("In a shell", "shell", null, h("h3", null, "This machine's network"), line("coder netcheck", "check your network"),
    facts.owner ? [h("h3", null, "The deployment"), line("coder health", "check the deployment"),
      h("h3", null, "Figures for Prometheus"), line("coder server --prometheus-enable", "figures for Prometheus"),
      h("h3", null, "Under the hood"), h("ul", { class: "list" }, INSIDE.map(([path, words]) => h("li", null, h("a", { href: `/api/v2/${path}` }, words))))] : null);
}

const INSIDE = [["debug/coordinator", "who is connected to the coordinator"], ["debug/tailnet", "where this server's own node is connected"],
  ["deployment/config", "every setting, where it comes from"], ["openapi.json", "the API (OpenAPI)"]];

start("?network=1", show, (message) => { state = { ...message, facts: state.facts }; });
