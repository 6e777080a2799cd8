// How things are said, the same as in the CLI and the documentation. Numbers have fixed decimals, and units always.

export const MARKS = {
  direct: "●", relayed: "◐", offline: "○", degraded: "▲", ready: "●", searching: "◌", waiting: "○",
};

// The clock of the page is the server's: the visitor's may be wrong.
let offset = 0;
export function setClock(at) {
  if (at) offset = new Date(at).getTime() - Date.now();
}
export function now() {
  return Date.now() + offset;
}

export function clock(at) {
  const date = new Date(at);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hour12: false });
  if (now() - date.getTime() < 20 * 3600e3) return time;
  return date.toLocaleDateString([], { day: "numeric", month: "short" }) + ", " + time;
}

export function absolute(at) {
  return new Date(at).toISOString().replace("T", " ").replace(/\.\d+Z/, " UTC");
}

export function ago(at) {
  const seconds = Math.max(0, (now() - new Date(at).getTime()) / 1000);
  if (seconds < 20) return "now";
  if (seconds < 60) return `${Math.floor(seconds / 10) * 10} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}

export function ahead(at) {
  const days = (new Date(at).getTime() - now()) / 86400e3;
  if (days < 0) return "expired";
  if (days < 1) return `in ${Math.max(1, Math.round(days * 24))} h`;
  return `in ${Math.round(days)} ${Math.round(days) === 1 ? "day" : "days"}`;
}

export function span(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function ms(value) {
  return value === null || value === undefined ? "–" : `${value.toFixed(1)} ms`;
}

export function loss(share) {
  return share === null || share === undefined ? "" : `${(share * 100).toFixed(share && share < 0.1 ? 1 : 0)} % lost`;
}

export function bytes(value) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000 || unit === "GB") return `${unit === "B" ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1000;
  }
}

export function rate(value) {
  return value === null || value === undefined ? "–" : `${bytes(value)}/s`;
}

// A path in words: "direct", "relayed via Frankfurt".
export function pathWords(path) {
  if (path.kind === "direct") return "direct";
  if (path.kind === "relayed") return `relayed via ${path.via || "a relay"}`;
  if (path.kind === "none" && path.active === false && !path.verdict) return "not in use";
  return "no path yet";
}

// An agent's state in words; the mark stands beside it.
export function stateWords(agent) {
  const mine = agent.paths.find((path) => path.kind === agent.state);
  switch (agent.state) {
    case "direct": return "direct";
    case "relayed": return mine ? pathWords(mine) : "relayed";
    case "offline": return `not reachable since ${clock(agent.disconnected_at || agent.last_seen_at)}`;
    case "degraded": return agent.reason || "connected, but no packet gets through";
    case "ready": return "ready";
    case "searching": return "looking for a path";
    default: return "waiting for its agent";
  }
}

export function stateReason(agent) {
  switch (agent.state) {
    case "offline": return "its agent stopped answering";
    case "ready": return "connected to this server; nobody uses it now";
    case "waiting": return "it was never seen here";
    default: return "";
  }
}

// The browser behind a User-Agent, for people.
export function browser(text) {
  const found = /(Edg|Firefox|Chrome|Safari)[/]/.exec(text);
  return found ? { Edg: "Edge" }[found[1]] || found[1] : program(text);
}

// What a client calls itself, short: "coder ssh", "python-coder-agent/1.0".
export function program(text) {
  return text ? text.split(" ")[0].split("(")[0].slice(0, 40) : "";
}
