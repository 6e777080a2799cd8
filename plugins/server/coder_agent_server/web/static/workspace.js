// What is going on with this one?

import { h } from "./dom.js";
import { past } from "./past.js";
import { ports } from "./ports.js";
import { data, facts, redraw, sayChange, start } from "./page.js";
import { call, code, copyButton, fault, line, mark, section, time } from "./parts.js";
import { picture } from "./picture.js";
import { chart } from "./spark.js";
import { absolute, bytes, clock, loss, ms, pathWords, program, rate, stateReason, stateWords } from "./words.js";

let workspace = data.workspaces[0];
let gone = false;
let chosen = null; // the peer whose path is drawn; null = the best guess
let agentId = workspace.agents[0]?.id;
let evidence = false;
let problem = "";
let token = "";

function heard(message) {
  const next = message.workspaces.find((row) => row.id === workspace.id);
  if (!next) {
    gone = message.gone.includes(workspace.id);
    return;
  }
  for (const agent of next.agents) {
    const before = workspace.agents.find((one) => one.id === agent.id);
    sayChange(agent.name, before && stateWords(before), stateWords(agent));
  }
  workspace = next;
}

function show() {
  const agent = workspace.agents.find((one) => one.id === agentId) || workspace.agents[0];
  if (gone) return [h("h1", null, `${workspace.name} was deleted`), h("p", null, h("a", { href: "/" }, "Your workspaces"))];
  if (!agent) return [h("h1", null, workspace.name), h("p", { class: "muted" }, "It has no agent.")];
  const up = agent.status === "connected";
  return [
    head(agent),
    agent.status === "connected" ? pathPicture(agent) : h("div", { key: "away" }, away(agent)),
    h("div", { class: "columns", key: "columns" },
      h("div", { class: "wide" }, up && apps(agent), up && ports(workspace, agent, place(agent)), agent.state !== "waiting" && [connections(agent), charts(agent)], past(workspace, full()), log(agent)),
      h("div", { class: "side" }, agent.state !== "waiting" && reach(agent, up), agentFacts(agent), manage(agent))),
  ];
}

const full = () => (workspace.owner === facts.user ? workspace.name : `${workspace.owner}/${workspace.name}`);
// As commands name it: the agent, too, where there are several.
const place = (agent) => (workspace.agents.length > 1 ? `${full()}.${agent.name}` : full());
const base = (agent) => `/@${workspace.owner}/${workspace.name}.${agent.name}`;

function head(agent) {
  const path = current(agent);
  const number = path ? path.latency_ms : agent.latency.ms;
  return h("div", { class: "answer", key: "head" },
    h("p", { class: "crumb" }, h("a", { href: "/" }, "Workspaces"), " / ", workspace.owner, " / ",
      workspace.agents.length > 1 ? agentChoice(agent) : `${workspace.name}.${agent.name}`),
    h("h1", null, workspace.name),
    h("p", { class: "verdict" }, h("span", { class: `big ${agent.state}` }, mark(agent.state), stateWords(agent)),
      agent.status === "connected" && number !== null ? h("span", { class: "big figure" }, ms(number)) : null),
    stateReason(agent) && agent.state !== "waiting" ? h("p", { class: "muted" }, stateReason(agent)) : null);
}

function agentChoice(agent) {
  return h("select", { "aria-label": "Agent", onchange: (event) => { agentId = event.target.value; redraw(); } },
    workspace.agents.map((one) => h("option", { value: one.id, selected: one.id === agent.id }, `${workspace.name}.${one.name}`)));
}

// ---------------------------------------------------------------- the path

function current(agent) {
  return agent.paths.find((path) => path.peer_id === chosen) || agent.paths.find((path) => path.mine) || agent.paths[0] || null;
}

function pathPicture(agent) {
  const path = current(agent);
  const width = Math.max(280, Math.min(1100, document.getElementById("page").clientWidth - 2));
  const relay = path && path.kind === "relayed" ? path.via : agent.facts.home || "relay";
  return h("section", { class: "path", "aria-label": "Path", key: "path" },
    agent.paths.length > 1 ? h("label", { class: "inline" }, "Path of ", h("select", { onchange: (event) => { chosen = event.target.value; redraw(); } },
      agent.paths.map((one) => h("option", { value: one.peer_id, selected: one === path }, `${one.mine ? "you" : one.who}, ${program(one.program) || "a client"} from ${one.from}`)))) : null,
    picture({ you: path ? (path.mine ? "you" : path.who) : "you", yours: path ? path.from : "not connected",
      workspace: workspace.name, address: path && path.address ? path.address : agent.facts.home ? `home ${agent.facts.home}` : "",
      relay, path, control: agent.latency.ms, leg: path ? agent.facts.regions[path.via] : null, width }),
    verdict(agent, path));
}

function verdict(agent, path) {
  if (!path) {
    return h("div", { class: "why", key: "nobody" }, h("p", null, "Nobody is connected. See your own path: "), line(`coder ping ${full()}`, "measure your path"));
  }
  const said = path.verdict;
  if (!said) return h("p", { class: "why muted", key: "why" }, "The workspace has not told why yet: it does so within ten seconds, if its agent can.");
  return h("div", { class: "why", key: "why" },
    h("p", null, sentence(turned(said.summary, path)), " ", code(said.code)),
    (said.fixes || []).length ? h("ul", { class: "fixes" }, h("li", { class: "lead muted" }, "Each of these makes it direct:"),
      said.fixes.map((fix) => h("li", null, turned(fix.text, path)))) : null,
    said.next_step ? h("p", null, sentence(turned(said.next_step, path))) : null,
    h("details", { ontoggle: (event) => { evidence = event.target.open; } },
      h("summary", null, "Show the evidence"),
      h("p", { class: "muted" }, "As the workspace's agent saw it."),
      h("ul", { class: "evidence" }, (said.evidence || []).map((one) => h("li", null, h("span", { class: "where muted" }, PLACES[one.where] || one.where), h("span", null, turned(one.text, path))))),
      line(`coder path ${full()}`, "the same from your side")));
}

// The agent speaks of itself as "you" and of the other end as "the peer"; here somebody else reads.
function turned(text, path) {
  const other = path.mine ? "your machine" : `${path.who}'s machine`;
  const words = { "the peer": other, "you are": "the workspace is", "you have": "the workspace has", you: "the workspace",
    your: "the workspace's", "this machine": "the workspace" };
  return (text || "").replace(/\b(the peer|you are|you have|your|you|this machine)\b/g, (found) => words[found]);
}

const PLACES = { here: "workspace", there: "client", path: "between", deployment: "server", relay: "relay" };
const sentence = (text) => text ? text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") : "";

// ---------------------------------------------------------------- not there

function away(agent) {
  if (agent.state === "waiting") {
    return h("section", { class: "empty", "aria-label": "How to start its agent" },
      h("p", null, "Its agent was never seen here. On the workspace's machine should run:"),
      line(`CODER_AGENT_URL=${facts.access_url} CODER_AGENT_TOKEN=${token || "…"} coder-agent run`, "start the agent"),
      h("p", null, token ? "This token is shown this once; the one before it is no longer good." : "The token was shown when the workspace was registered. ",
        token ? null : h("button", { type: "button", onclick: () => renew(agent) }, "Make a new token")),
      token ? null : line(`coder agent-token ${place(agent)}`, "make a new token in a shell"),
      h("p", null, "It should say “is up” within a second. What can be in the way:"),
      h("ul", null,
        h("li", null, "the machine cannot reach ", h("code", null, facts.access_url), ": ", h("code", null, `curl ${facts.access_url}/healthz`), " must answer OK"),
        h("li", null, "the token is another workspace's, or was replaced: the agent then says that it is not authorized")),
      h("p", { role: "status" }, mark("searching"), " this page shows it as soon as it connects"));
  }
  return h("section", { class: "empty", "aria-label": "What to do" },
    h("p", null, `It was last heard `, time(agent.last_seen_at), `, at ${absolute(agent.last_seen_at)}. Its machine sleeps, lost its network, or the agent ended.`),
    h("p", null, "On that machine: "), line("coder-agent run", "start the agent again"));
}

// ---------------------------------------------------------------- what it offers

function apps(agent) {
  if (!agent.apps.length) {
    return section("Apps", "apps", null, h("p", { class: "muted" }, "None declared. One is made with:"),
      line(`coder app add ${place(agent)} web 8080`, "declare an app"));
  }
  return section("Apps", "apps", null, h("ul", { class: "list" }, agent.apps.map((app) => h("li", { key: app.slug },
    mark(app.health === "unhealthy" ? "degraded" : app.health === "initializing" ? "searching" : "direct", HEALTH[app.health] || app.health),
    h("a", { href: appUrl(agent, app), target: "_blank", rel: "noopener" }, app.name),
    h("span", { class: "muted" }, app.command ? "command" : app.external ? "link" : app.share === "owner" ? "only you" : SHARING[app.share]),
    app.external ? null : copyButton(new URL(appUrl(agent, app), location.href).href, `Copy the address of ${app.name}`)))),
  line(`coder app add ${place(agent)} NAME PORT`, "declare another app"));
}

const HEALTH = { healthy: "healthy", disabled: "not checked", unhealthy: "its health check fails", initializing: "being checked" };
const SHARING = { authenticated: "everybody signed in", organization: "everybody signed in", public: "everybody" };

function appUrl(agent, app) {
  if (app.external) return app.url;
  if (app.command) return `${base(agent)}/terminal?command=${encodeURIComponent(app.command)}`;
  if (app.subdomain && facts.wildcard) return `${location.protocol}//${facts.wildcard.replace("*", app.subdomain_name)}/`;
  return `${base(agent)}/apps/${app.slug}/`;
}

// ---------------------------------------------------------------- who is here

function connections(agent) {
  const rows = [
    ...agent.paths.map((path) => h("tr", { key: path.peer_id, role: "row" },
      h("th", { scope: "row", role: "rowheader" }, mark(path.kind === "none" ? "searching" : path.kind), path.mine ? "you" : path.who),
      h("td", { role: "cell", "data-name": "With" }, program(path.program) || "a client"),
      h("td", { role: "cell", "data-name": "From" }, h("code", null, path.from)),
      h("td", { role: "cell", "data-name": "Path" }, pathWords(path), h("span", { class: "muted" }, ` ${measured(path)}`)),
      h("td", { role: "cell", class: "number", "data-name": "Bytes" }, path.bytes ? `↓ ${bytes(path.bytes.rx)} ↑ ${bytes(path.bytes.tx)}` : "–"),
      h("td", { role: "cell", "data-name": "Since" }, time(path.since)))),
    ...agent.sessions.map((session, at) => h("tr", { key: `session ${at}`, role: "row" },
      h("th", { scope: "row", role: "rowheader" }, mark("ready"), SESSIONS[session.kind] || session.kind),
      h("td", { role: "cell", "data-name": "With" }, "session"),
      h("td", { role: "cell", "data-name": "From" }, h("code", null, session.from || "–")),
      h("td", { role: "cell", "data-name": "Path" }, "–"), h("td", { role: "cell", class: "number", "data-name": "Bytes" }, "–"),
      h("td", { role: "cell", "data-name": "Since" }, time(session.since)))),
  ];
  const own = agent.server_path && agent.server_path.kind !== "none"
    ? h("p", { class: "muted" }, ["This server's own connection (apps, terminal): ", [pathWords(agent.server_path), measured(agent.server_path)].filter(Boolean).join(", "),
      agent.server_path.reason ? `; ${agent.server_path.reason}` : "", "."]) : null;
  if (!rows.length) return section("Connections", "connections", null, h("p", { class: "muted" }, "Nobody is connected now."), own);
  return section("Connections", "connections", null, h("table", { class: "rows", role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Who", "With", "From", "Path", "Bytes", "Since"].map((name) =>
      h("th", { scope: "col", role: "columnheader", class: name === "Bytes" ? "number" : null }, name)))),
    h("tbody", { role: "rowgroup" }, rows)), own);
}

// Round trip, and loss where there is any.
const measured = (path) => [path.latency_ms === null ? "" : ms(path.latency_ms), path.loss ? loss(path.loss) : ""].filter(Boolean).join(", ");

const SESSIONS = { ssh: "SSH", vscode: "VS Code", jetbrains: "JetBrains", reconnecting_pty: "terminal" };

function charts(agent) {
  const path = agent.latencies.path.length > 1;
  return section("Latency and throughput", "charts", null, h("div", { class: "charts" },
    chart(path ? agent.latencies.path : agent.latencies.control, { unit: ms, label: path ? "Latency to clients" : "Latency to this server" }),
    agent.rates.some((one) => one > 0) ? chart(agent.rates, { unit: rate, label: "Throughput" }) : null));
}

function log(agent) {
  return section("Log", "log", null, agent.log.length
    ? h("ol", { class: "log", tabindex: 0, "aria-label": "Log, newest first" }, agent.log.map((entry) => h("li", null,
      h("time", { datetime: entry.at, title: absolute(entry.at) }, clock(entry.at)), h("span", { class: `kind ${entry.kind}` }, entry.kind),
      h("span", null, entry.text, entry.code ? [" ", code(entry.code)] : null))))
    : h("p", { class: "muted" }, "Nothing happened since this server was started."));
}

// ---------------------------------------------------------------- at the side

function reach(agent, up) {
  const name = place(agent);
  return section("Reach it", "reach", null,
    up ? h("p", null, h("a", { class: "button", href: `${base(agent)}/terminal` }, "Open a terminal")) : null,
    h("h3", null, "The same terminal in a shell"), line(`coder terminal ${name}`, "terminal"),
    h("h3", null, "Shell"), line(`coder ssh ${name}`, "shell"),
    h("h3", null, "OpenSSH, scp, git, editors"), line("coder config-ssh", "set up OpenSSH"), line(`ssh coder.${workspace.name}`, "by OpenSSH"),
    h("h3", null, "A port on this machine"), line(`coder port-forward ${name} --tcp 8080:8080`, "forward a port"),
    h("h3", null, "Python"), line(`import coder_agent

async with coder_agent.connect("${name}") as workspace:
    stream = await workspace.open_tcp(8080)`, "Python"));
}

function agentFacts(agent) {
  const known = agent.facts;
  const rows = [
    ["Version", known.version], ["API", known.api_version], ["System", `${known.os}/${known.architecture}`], ["Directory", known.directory, true],
    ["Address", known.addresses.map((one) => one.split("/")[0]), true], ["Home relay", known.home],
    ["Listens at", known.endpoints, true], ["State", known.lifecycle.replaceAll("_", " ")],
    ["Started", known.started_at ? time(known.started_at) : ""], ["Registered", time(known.created_at)],
    ...Object.entries(known.regions).map(([region, latency]) => [`to ${region}`, ms(latency)]),
  ];
  return section("Agent", "facts", null, h("dl", { class: "facts" }, rows.filter(([, value]) => value && value.length !== 0).map(([name, value, code]) =>
    h("div", { class: code ? "tall" : null }, h("dt", null, name), h("dd", null, code ? [value].flat().map((one) => h("code", null, one)) : value)))));
}

function manage(agent) {
  return section("Manage", "manage", null, fault(problem),
    token && agent.state !== "waiting" ? [h("p", null, "The new token, shown this once:"), line(token, "the new token")] : null,
    h("p", { class: "buttons left" }, h("button", { type: "button", onclick: () => renew(agent) }, "New token"),
      h("button", { type: "button", class: "danger", onclick: remove }, "Delete")),
    line(`coder agent-token ${place(agent)}`, "make a new token in a shell"),
    line(`coder delete ${full()}`, "delete this workspace"));
}

async function renew(agent) {
  if (agent.state !== "waiting" && !confirm(`Replace the token of ${workspace.name}? Its agent is disconnected until it has the new one.`)) return;
  await attempt(async () => { token = (await call("POST", `/workspaceagents/${agent.id}/token`, {})).token; });
}

async function remove() {
  if (!confirm(`Delete ${workspace.name}? Its token stops working and everybody is disconnected. Its machine is not touched.`)) return;
  await attempt(async () => { await call("DELETE", `/workspaces/${workspace.id}`); location.assign("/"); });
}

async function attempt(action) {
  problem = "";
  try {
    await action();
  } catch (error) {
    problem = error.message;
  }
  redraw();
}

new ResizeObserver(() => redraw()).observe(document.getElementById("page"));
start(`?workspace=${workspace.id}`, show, heard);
