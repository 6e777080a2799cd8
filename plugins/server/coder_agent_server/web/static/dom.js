// Elements from plain descriptions, and one tree made like another without losing focus, selection or what is open.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "line", "circle", "rect", "text", "title", "desc", "polyline", "tspan"]);
// What belongs to the person in front of the page once it is there.
const THEIRS = { DETAILS: ["open"], DIALOG: ["open"], INPUT: ["value"], SELECT: ["value"] };

// h("p", {class: "muted", onclick: f, key: 1}, "text", [more], null): attributes by name, handlers by on…
export function h(tag, props, ...children) {
  const element = SVG_TAGS.has(tag) && tag !== "title" ? document.createElementNS(SVG, tag)
    : tag === "title" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  element._handlers = {};
  for (const [name, value] of Object.entries(props || {})) {
    if (name === "key") element._key = value;
    else if (name.startsWith("on")) listen(element, name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}

// One listener per kind of event; which function it calls may change with each drawing.
function listen(element, kind, handler) {
  if (!(kind in element._handlers)) {
    element.addEventListener(kind, (event) => element._handlers[kind] && element._handlers[kind](event));
  }
  element._handlers[kind] = handler;
}

// Make what is inside `place` look like `children`.
export function draw(place, ...children) {
  const wanted = document.createElement("div");
  add(wanted, children);
  morphChildren(place, wanted);
}

function morph(old, wanted) {
  if (old.nodeType !== wanted.nodeType || old.nodeName !== wanted.nodeName || old._key !== wanted._key) {
    old.replaceWith(wanted);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== wanted.data) old.data = wanted.data;
    return;
  }
  const theirs = THEIRS[old.tagName] || [];
  for (const { name, value } of [...wanted.attributes]) {
    if (!theirs.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && !theirs.includes(name)) old.removeAttribute(name);
  }
  old._handlers ||= {};
  for (const kind of Object.keys(old._handlers)) if (!(kind in (wanted._handlers || {}))) old._handlers[kind] = null;
  for (const [kind, handler] of Object.entries(wanted._handlers || {})) listen(old, kind, handler);
  if (!old.hasAttribute("data-own")) morphChildren(old, wanted);
}

function morphChildren(old, wanted) {
  const keyed = new Map();
  for (const child of old.childNodes) if (child._key !== undefined) keyed.set(child._key, child);
  let at = old.firstChild;
  for (const child of [...wanted.childNodes]) {
    const match = child._key !== undefined ? keyed.get(child._key) : undefined;
    if (match && match !== at) old.insertBefore(match, at);
    const target = match || (child._key === undefined && at && at._key === undefined ? at : null);
    if (!target) {
      old.insertBefore(child, at);
      continue;
    }
    at = target.nextSibling;
    morph(target, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
