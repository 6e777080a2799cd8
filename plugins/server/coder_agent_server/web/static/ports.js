// Ports that programs in the workspace listen on, and who else may open them.

import { h } from "./dom.js";
import { facts, redraw } from "./page.js";
import { call, copyButton, fault, line, section } from "./parts.js";

let listening = null; // null = not asked yet
let problem = "";
let asking = false;
let last = null; // what was shared or taken back here: the line says how to do that in a shell
let wanted = ""; // the port in the form

const LEVELS = [["owner", "only you"], ["authenticated", "signed in"], ["public", "everybody"]];

export function addressOfPort(workspace, agent, port) {
  if (facts.wildcard) {
    const label = `${port}--${agent.name}--${workspace.name}--${workspace.owner}`;
    if (label.length <= 63) return `${location.protocol}//${facts.wildcard.replace("*", label)}/`;
  }
  return `/@${workspace.owner}/${workspace.name}.${agent.name}/ports/${port}/`;
}

// What the agent says it listens on is asked when the page opens and when somebody wants to know again.
async function ask(agent) {
  asking = true;
  try {
    listening = (await call("GET", `/workspaceagents/${agent.id}/listening-ports`)).ports || [];
    problem = "";
  } catch (error) {
    listening = [];
    problem = error.message;
  }
  asking = false;
  redraw();
}

// `name`: the workspace as commands name it.
export function ports(workspace, agent, name) {
  if (listening === null && !asking) ask(agent);
  const shares = new Map((workspace.shares || []).filter((one) => one.agent_name === agent.name).map((one) => [one.port, one]));
  const found = new Map((listening || []).map((one) => [one.port, one.process_name || ""]));
  for (const port of shares.keys()) if (!found.has(port)) found.set(port, "");
  const rows = [...found].sort(([a], [b]) => a - b);
  const again = h("button", { type: "button", class: "plain", disabled: asking, onclick: () => { ask(agent); redraw(); } }, asking ? "Looking…" : "Look again");
  return section("Ports", "ports", again, fault(problem),
    rows.length ? h("ul", { class: "list" }, rows.map(([port, process]) => portRow(workspace, agent, port, process, shares.get(port))))
      : h("p", { class: "muted" }, listening === null ? "Asking the workspace…" : "No program listens on a TCP port."),
    rows.length ? line(shareLine(name, last || { port: rows[0][0], level: "authenticated" }), "share a port in a shell") : null,
    h("form", { class: "inline", onsubmit: (event) => openPort(event, workspace, agent) },
      h("label", null, "Another port ", h("input", { name: "port", type: "number", min: 9, max: 65535, required: true, placeholder: "8080",
        oninput: (event) => { wanted = event.target.value; redraw(); } })),
      h("button", null, "Open")),
    line(`coder port-forward ${name} --tcp ${wanted || "8080"}`, "the port on your own machine"));
}

function shareLine(name, { port, level }) {
  return `coder port-share ${name} ${port} ${level === "owner" ? "--stop" : `--share ${level}`}`;
}

function portRow(workspace, agent, port, process, share) {
  const level = share ? (share.share_level === "organization" ? "authenticated" : share.share_level) : "owner";
  const address = addressOfPort(workspace, agent, port);
  return h("li", { key: port },
    h("a", { href: address, target: "_blank", rel: "noopener" }, h("code", null, String(port))), h("span", { class: "muted grow" }, process),
    h("select", { "aria-label": `Who may open port ${port}`, key: `${port} ${level}`, onchange: (event) => setLevel(workspace, agent, port, event.target.value) },
      LEVELS.map(([value, words]) => h("option", { value, selected: value === level }, words))),
    copyButton(new URL(address, location.href).href, `Copy the address of port ${port}`));
}

async function setLevel(workspace, agent, port, level) {
  problem = "";
  last = { port, level };
  try {
    if (level === "owner") await call("DELETE", `/workspaces/${workspace.id}/port-share`, { agent_name: agent.name, port });
    else await call("POST", `/workspaces/${workspace.id}/port-share`, { agent_name: agent.name, port, share_level: level, protocol: "http" });
  } catch (error) {
    problem = error.message;
  }
  redraw();
}

function openPort(event, workspace, agent) {
  event.preventDefault();
  window.open(addressOfPort(workspace, agent, Number(event.target.elements.port.value)), "_blank", "noopener");
}
