// The connection log: who was connected, when, from where, how long, and how it ended.

import { h } from "./dom.js";
import { line, section } from "./parts.js";
import { absolute, browser, bytes, clock, program, span } from "./words.js";

const KINDS = { tunnel: "tunnel", ssh: "SSH", vscode: "VS Code", jetbrains: "JetBrains", reconnecting_pty: "terminal" };
const NAMES = ["Who", "What", "From", "Bytes", "For", "End", "Since"];

export function past(workspace, name) {
  const rows = workspace.past || [];
  return section("Connection log", "past", null, rows.length
    ? h("table", { class: "rows past", role: "table" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, NAMES.map((one) =>
        h("th", { scope: "col", role: "columnheader", class: ["Bytes", "For"].includes(one) ? "number" : null }, one)))),
      h("tbody", { role: "rowgroup" }, rows.map((row) => entry(row, workspace.agents.length > 1))))
    : h("p", { class: "muted" }, "Nobody was connected yet."),
  line(`coder connections ${name}`, "the connection log in a shell"));
}

function entry(row, several) {
  const web = row.kind === "workspace_app" || row.kind === "port_forwarding";
  const what = row.kind === "workspace_app" ? ["app ", h("code", null, row.target)]
    : row.kind === "port_forwarding" ? ["port ", h("code", null, row.target)] : KINDS[row.kind] || row.kind;
  return h("tr", { key: row.id, role: "row" },
    h("th", { scope: "row", role: "rowheader" }, row.who || (web ? "not signed in" : "–")),
    h("td", { role: "cell", "data-name": "What" }, what, several ? ` on ${row.agent}` : "",
      row.program ? h("span", { class: "muted", title: row.program }, ` ${web || row.kind === "reconnecting_pty" ? browser(row.program) : program(row.program)}`) : null),
    h("td", { role: "cell", "data-name": "From" }, h("code", null, row.from || "–")),
    h("td", { role: "cell", class: row.bytes ? "number" : "number none", "data-name": "Bytes" }, row.bytes ? `↓ ${bytes(row.bytes.rx)} ↑ ${bytes(row.bytes.tx)}` : "–"),
    h("td", { role: "cell", class: "number", "data-name": "For" }, row.until ? span((new Date(row.until) - new Date(row.at)) / 1000) : "open"),
    h("td", { role: "cell", class: row.until ? null : "none", "data-name": "End" }, row.until ? ending(row, web) : "–"),
    h("td", { role: "cell", "data-name": "Since" }, h("time", { datetime: row.at, title: absolute(row.at) }, clock(row.at))));
}

function ending(row, web) {
  if (web) return row.status ? [h("span", { class: row.status >= 400 ? "degraded" : "muted" }, row.status >= 400 ? "▲ " : ""), String(row.status)] : "–";
  return row.reason || (row.status ? `exit ${row.status}` : "closed");
}
