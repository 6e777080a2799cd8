// Small things that every page uses.

import { h } from "./dom.js";
import { MARKS, absolute, ago } from "./words.js";

export function mark(state, label) {
  return h("span", { class: `mark ${state}`, "aria-hidden": label ? null : "true", role: label ? "img" : null,
    "aria-label": label || null }, MARKS[state] || "○");
}

export function time(at, never = "never") {
  return at ? h("time", { datetime: at, title: absolute(at) }, ago(at)) : never;
}

// A line that a shell accepts, with a button that copies it.
export function line(command, label) {
  return h("p", { class: command.includes("\n") ? "line lines" : "line", key: `line ${command}` },
    h("code", { tabindex: 0, role: "group", "aria-label": label || "Command" }, command),
    copyButton(command, label ? `Copy: ${label}` : `Copy ${command}`));
}

export function copyButton(text, label) {
  return h("button", { type: "button", class: "copy", "aria-label": label, title: "Copy", onclick: (event) => copy(text, event.currentTarget) }, "Copy");
}

export async function copy(text, button) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    done = copyBySelection(text); // pages on plain http have no clipboard of their own
  }
  button.textContent = done ? "Copied" : "Select it";
  announce(done ? "Copied" : "It could not be copied; select it instead");
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "heard";
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

export function announce(text) {
  let place = document.getElementById("said");
  if (!place) {
    place = h("div", { id: "said", class: "heard", role: "status", "aria-live": "polite" });
    document.body.append(place);
  }
  place.textContent = text;
}

// A request to the API. Throws an Error whose message is a sentence for people.
export async function call(method, path, body) {
  let reply;
  try {
    reply = await fetch("/api/v2" + path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("The server cannot be reached. Nothing was changed.");
  }
  if (reply.status === 204) return null;
  const said = await reply.json().catch(() => ({}));
  if (reply.ok) return said;
  const faults = (said.validations || []).map((fault) => `${fault.field}: ${fault.detail}`).join(" ");
  throw new Error([said.message || `The server answered ${reply.status}.`, faults || said.detail].filter(Boolean).join(" "));
}

// A section with a heading and, at its right, what can be done.
export function section(title, id, actions, ...children) {
  return h("section", { "aria-labelledby": id, key: id },
    h("div", { class: "head" }, h("h2", { id }, title), actions), ...children);
}

// A cause's or a check's code, which leads to what it means.
export function code(name, about = "why-relayed") {
  return name.startsWith("direct_") ? h("code", { class: "cause" }, name)
    : h("a", { class: "cause", href: `/help/${about}#${name}` }, h("code", null, name));
}

export function fault(text) {
  return text ? h("p", { class: "fault", role: "alert" }, text) : null;
}
