// What can act for me?

import { h } from "./dom.js";
import { data, facts, redraw, start } from "./page.js";
import { call, fault, line, section, time } from "./parts.js";
import { absolute, ahead } from "./words.js";

const NANOSECONDS = 1e9;
const LIFETIMES = [["1", "a day"], ["7", "a week"], ["30", "30 days"], ["90", "90 days"], ["365", "a year"]];
const SCOPES = [["all", "everything you may"], ["application_connect", "open web apps"], ["workspace:ssh", "connect to workspaces"], ["workspace:read", "look at workspaces"]];

let user = null;
let keys = null;
let problem = "";
let made = "";
let wanted = { name: "", scope: "all", days: "30" };

async function load() {
  try {
    [user, keys] = await Promise.all([call("GET", "/users/me"), call("GET", "/users/me/keys")]);
  } catch (error) {
    problem = error.message;
    keys ||= [];
  }
  redraw();
}

function show() {
  return [
    h("div", { class: "answer", key: "answer" }, h("h1", null, facts.user),
      h("p", { class: "muted" }, user ? `${user.email} · ${facts.owner ? "owner of this deployment" : "member"}` : "…")),
    h("div", { class: "columns", key: "columns" }, h("div", { class: "wide" }, fault(problem), list()), h("div", { class: "side" }, add())),
  ];
}

function list() {
  if (keys === null) return h("p", { class: "muted" }, "…");
  return section("Tokens and sessions", "tokens", null, keys.length ? h("table", { class: "rows", role: "table" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ["Name", "May", "Last used", "Ends", ""].map((name) => h("th", { scope: name ? "col" : null, role: "columnheader" }, name || h("span", { class: "heard" }, "Action"))))),
    h("tbody", { role: "rowgroup" }, keys.map(row)))
    : h("p", { class: "muted" }, "No token. One lets a program act for you, for as long as you say."),
  h("p", { class: "muted hint" }, "In a shell:"), line("coder tokens list", "list tokens"), line(`coder tokens remove ${revocable()}`, "revoke a token"));
}

// What a line about revoking names: the first that is not this session.
function revocable() {
  const other = keys.find((key) => key.id !== data.key_id);
  return other ? other.token_name || other.id : "ID";
}

function row(key) {
  const here = key.id === data.key_id;
  return h("tr", { key: key.id, role: "row" },
    h("th", { scope: "row", role: "rowheader" }, key.token_name || (here ? "this session" : "session"), " ", h("code", { class: "muted" }, key.id)),
    h("td", { role: "cell", "data-name": "May" }, (SCOPES.find(([scope]) => scope === key.scope) || [0, key.scope])[1]),
    h("td", { role: "cell", "data-name": "Last used" }, time(key.last_used)),
    h("td", { role: "cell", "data-name": "Ends" }, h("time", { datetime: key.expires_at, title: absolute(key.expires_at) }, ahead(key.expires_at))),
    h("td", { role: "cell", class: "act" }, h("button", { type: "button", class: "danger", "aria-label": `Revoke ${key.token_name || key.id}`, onclick: () => revoke(key, here) }, "Revoke")));
}

function add() {
  const days = LIFETIMES.find(([value]) => value === wanted.days);
  return section("New token", "new", null,
    made ? h("div", { key: "made", class: "made" }, h("p", null, "Shown this once:"), line(made, "the new token"),
      h("p", { class: "muted" }, "Give it to a program as ", h("code", null, "CODER_SESSION_TOKEN"), ".")) : null,
    h("form", { onsubmit: create, key: "form" },
      h("label", null, "Name", h("input", { name: "name", required: true, maxlength: 64, autocomplete: "off", spellcheck: "false", oninput: (event) => { wanted.name = event.target.value; redraw(); } })),
      h("label", null, "It may", select("scope", SCOPES)),
      h("label", null, "For", select("days", LIFETIMES)),
      h("button", { class: "primary" }, "Create token")),
    line(`coder tokens create --name ${wanted.name.trim() || "NAME"} --lifetime ${Number(days[0]) * 24}h${wanted.scope === "all" ? "" : ` --scope ${wanted.scope}`}`, "create it in a shell"),
    h("h3", null, "Sign a shell in, or out"), line(`coder login ${facts.access_url}`, "sign a shell in"), line("coder logout", "sign a shell out"));
}

function select(name, choices) {
  return h("select", { name, onchange: (event) => { wanted[name] = event.target.value; redraw(); } },
    choices.map(([value, words]) => h("option", { value, selected: value === wanted[name] }, words)));
}

async function create(event) {
  event.preventDefault();
  const form = event.target;
  await attempt(async () => {
    made = (await call("POST", "/users/me/keys/tokens", { token_name: wanted.name.trim(), scope: wanted.scope, lifetime: Number(wanted.days) * 86400 * NANOSECONDS })).key;
    form.elements.name.value = wanted.name = "";
  });
}

async function revoke(key, here) {
  if (!confirm(`Revoke ${key.token_name || (here ? "this session" : "this session of yours")}? Whoever uses it is signed out at once.`)) return;
  await attempt(() => call("DELETE", `/users/me/keys/${key.id}`));
  if (here && !problem) location.assign("/login");
}

async function attempt(action) {
  problem = "";
  try {
    await action();
  } catch (error) {
    problem = error.message;
  }
  await load();
}

start(null, show, null);
load();
