// Which of my workspaces can I reach?

import { h } from "./dom.js";
import { data, facts, redraw, sayChange, start } from "./page.js";
import { call, fault, line, mark, time } from "./parts.js";
import { spark } from "./spark.js";
import { ms, pathWords, rate, stateReason, stateWords } from "./words.js";

const rows = new Map(data.workspaces.map((row) => [row.id, row]));
let total = data.total;
let filter = "";
let adding = null; // {fault} while the form is open, {made} when there is a token to show

function heard(message) {
  if (message.type === "state") {
    rows.clear();
    total = message.total;
  }
  for (const row of message.workspaces) {
    const was = rows.get(row.id);
    rows.set(row.id, row);
    for (const agent of row.agents) {
      const before = was && was.agents.find((one) => one.id === agent.id);
      sayChange(row.name, before && stateWords(before), stateWords(agent));
    }
    if (!was && message.type === "rows") total += 1;
  }
  for (const id of message.gone || []) if (rows.delete(id)) total -= 1;
}

function show() {
  const all = [...rows.values()].sort((a, b) => order(a).localeCompare(order(b)));
  if (!all.length) return [empty(), dialog()];
  const shown = all.filter(matches);
  return [summary(all), tools(all.length), table(shown), more(shown, all), dialog()];
}

// One's own first.
const order = (row) => `${row.owner === facts.user ? 0 : 1} ${row.owner}/${row.name}`;

function matches(row) {
  const text = [row.owner, row.name, ...row.agents.flatMap((agent) => [agent.name, stateWords(agent)])].join(" ").toLowerCase();
  return filter.split(/\s+/).every((word) => text.includes(word));
}

function summary(all) {
  const agents = all.flatMap((row) => row.agents);
  const up = agents.filter((agent) => ["direct", "relayed", "ready", "searching"].includes(agent.state)).length;
  const parts = ["direct", "relayed", "degraded", "offline", "waiting"]
    .map((state) => [state, agents.filter((agent) => agent.state === state).length]).filter(([, count]) => count);
  return h("div", { class: "answer", key: "answer" },
    h("h1", null, h("span", { class: "big" }, `${up} of ${agents.length}`), " reachable"),
    h("p", { class: "muted" }, parts.map(([state, count], at) => [at ? " · " : "", mark(state), ` ${count} ${WORDS[state]}`])));
}

const WORDS = { direct: "direct", relayed: "relayed", degraded: "degraded", offline: "not reachable", waiting: "never seen" };

function tools(count) {
  return h("div", { class: "tools", key: "tools" },
    h("input", { type: "search", id: "filter", placeholder: "Filter", "aria-label": "Filter workspaces", autocomplete: "off",
      spellcheck: "false", oninput: (event) => { filter = event.target.value.trim().toLowerCase(); redraw(); } }),
    h("span", { class: "muted count" }, count === total ? `${count} ${count === 1 ? "workspace" : "workspaces"}` : `${count} of ${total} shown`),
    h("button", { type: "button", class: "primary", onclick: open }, "Add workspace"));
}

function table(shown) {
  const names = ["Workspace", "Path", "Latency", "Throughput", "Last seen", "Apps"];
  return h("table", { class: "rows", key: "table", role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, names.map((name) => h("th", { scope: "col", role: "columnheader",
      class: ["Latency", "Throughput"].includes(name) ? "number" : null }, name)))),
    h("tbody", { role: "rowgroup" }, shown.flatMap((row) => row.agents.map((agent) => tableRow(row, agent)))));
}

function cell(name, kind, ...children) {
  return h("td", { role: "cell", class: kind, "data-name": name }, ...children);
}

function tableRow(row, agent) {
  const link = `/@${encodeURIComponent(row.owner)}/${encodeURIComponent(row.name)}`;
  const owner = row.owner === facts.user ? "" : `${row.owner}/`;
  return h("tr", { key: agent.id, role: "row", class: `row ${agent.state}` },
    h("th", { scope: "row", role: "rowheader", class: "name" }, mark(agent.state, stateWords(agent)),
      h("a", { href: link }, owner, h("strong", null, row.name)),
      h("span", { class: "agent muted" }, agent.name)),
    cell("Path", "path", paths(agent)),
    cell("Latency", "number latency", agent.latency.ms === null ? h("span", { class: "muted" }, "–") : [
      spark(agent.latency.history, { label: LATENCY[agent.latency.of] }),
      h("span", { class: "value", title: LATENCY[agent.latency.of] }, ms(agent.latency.ms))]),
    cell("Throughput", "number rate", throughput(agent)),
    cell("Last seen", "seen", agent.status === "connected" ? "now" : time(agent.last_seen_at)),
    cell("Apps", "apps", apps(row, agent)));
}

const LATENCY = {
  path: "Round trip between the workspace and who is connected",
  control: "Round trip between this server and the workspace's agent",
};

// The visitor's own connection, then the server's; without either, the state.
function paths(agent) {
  const mine = agent.paths.find((path) => path.mine);
  const others = agent.paths.filter((path) => !path.mine).length;
  const lines = [h("span", { class: "state" }, mine ? ["you: ", pathWords(mine)] : stateWords(agent))];
  if (agent.server_path && agent.server_path.kind !== "none") lines.push(h("span", { class: "muted" }, `server: ${pathWords(agent.server_path)}`));
  else if (!mine && stateReason(agent)) lines.push(h("span", { class: "muted" }, stateReason(agent)));
  if (others) lines.push(h("span", { class: "muted" }, `${others} ${others === 1 ? "other connection" : "other connections"}`));
  return lines;
}

function throughput(agent) {
  if (!agent.rate) return h("span", { class: "muted" }, "–");
  if (agent.rate.rx + agent.rate.tx < 1) return h("span", { class: "muted" }, "idle");
  return [h("span", { title: "into the workspace" }, `↓ ${rate(agent.rate.rx)}`), h("span", { title: "out of the workspace" }, `↑ ${rate(agent.rate.tx)}`)];
}

function apps(row, agent) {
  return agent.apps.slice(0, 4).map((app) => h("a", { href: appUrl(row, agent, app), target: "_blank", rel: "noopener",
    class: `app ${app.health}`, title: app.health === "unhealthy" ? "its health check fails" : null }, app.name));
}

export function appUrl(row, agent, app) {
  const base = `/@${row.owner}/${row.name}.${agent.name}`;
  if (app.external) return app.url;
  if (app.command) return `${base}/terminal?command=${encodeURIComponent(app.command)}`;
  if (app.subdomain && facts.wildcard) return `${location.protocol}//${facts.wildcard.replace("*", app.subdomain_name)}/`;
  return `${base}/apps/${app.slug}/`;
}

function more(shown, all) {
  if (!shown.length) return h("p", { class: "muted", key: "none" }, `None of ${all.length} matches “${filter}”.`);
  return h("p", { class: "muted hint", key: "hint" }, "The same in a shell: ", h("code", null, "coder list"));
}

function empty() {
  return h("div", { class: "empty", key: "empty" },
    h("h1", null, "No workspace yet"),
    h("p", null, "A workspace is a machine that runs the agent. Two commands make one:"),
    h("ol", { class: "steps" },
      h("li", null, h("p", null, "On your machine: register it. It answers with the line for step two."),
        line(`coder login ${facts.access_url}`, "sign in"), line("coder create dev", "register a workspace")),
      h("li", null, h("p", null, "On the machine that becomes the workspace: start the agent with that line."),
        line(`CODER_AGENT_URL=${facts.access_url} CODER_AGENT_TOKEN=… coder-agent run`, "start the agent"))),
    h("p", null, h("button", { type: "button", class: "primary", onclick: open }, "Add workspace"), " ",
      h("span", { class: "muted" }, "does the first step here.")));
}

// ---------------------------------------------------------------- a new one

function open() {
  adding = {};
  redraw();
  queueMicrotask(() => queueMicrotask(() => {
    const box = document.getElementById("add");
    if (!box.open) box.showModal();
  }));
}

function close() {
  document.getElementById("add").close();
}

function dialog() {
  return h("dialog", { id: "add", key: "dialog", "aria-labelledby": "add-title", onclose: () => { adding = null; redraw(); } },
    adding && (adding.made ? made(adding.made) : form()));
}

function form() {
  return h("form", { method: "dialog", key: "form", onsubmit: create },
    h("h2", { id: "add-title" }, "Add workspace"),
    h("label", null, "Name", h("input", { name: "name", required: true, autofocus: true, maxlength: 32, pattern: "[a-zA-Z0-9]+(-[a-zA-Z0-9]+)*",
      autocomplete: "off", spellcheck: "false", title: "Letters, digits and single dashes", oninput: () => redraw() })),
    fault(adding.fault),
    h("p", { class: "muted" }, "In a shell: "), line(`coder create ${typed() || "NAME"}`, "register this workspace"),
    h("p", { class: "buttons" }, h("button", { type: "button", onclick: close }, "Cancel"), h("button", { class: "primary" }, "Register")));
}

const typed = () => document.querySelector("#add input[name=name]")?.value.trim() || "";

async function create(event) {
  event.preventDefault();
  try {
    adding = { made: await call("POST", "/users/me/workspaces", { name: typed() }) };
  } catch (error) {
    adding = { fault: error.message };
  }
  redraw();
}

function made(workspace) {
  const row = rows.get(workspace.id);
  const agent = row && row.agents[0];
  const here = agent && agent.status === "connected";
  return h("div", { key: "made" },
    h("h2", { id: "add-title" }, `${workspace.name} is registered`),
    h("p", null, "Run this line on its machine. The token in it is shown this once."),
    line(`CODER_AGENT_URL=${facts.access_url} CODER_AGENT_TOKEN=${workspace.agent_token} coder-agent run`, "start the agent"),
    h("p", { role: "status" }, mark(here ? "direct" : "searching"), here ? " its agent is connected" : " waiting for its agent…"),
    h("p", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: close }, "Done")));
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    document.getElementById("filter")?.focus();
  }
});

start("", show, heard);
