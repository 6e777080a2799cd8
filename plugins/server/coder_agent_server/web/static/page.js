// What a live page is: data to begin with, a feed, and a place that is drawn whenever something was heard.

import { draw, h } from "./dom.js";
import { Feed } from "./feed.js";
import { announce } from "./parts.js";
import { absolute, clock, setClock } from "./words.js";

export const data = JSON.parse(document.getElementById("data").textContent);
export const facts = data.facts;

const place = document.getElementById("page");
const lamp = document.getElementById("feed");
let connected = null;
let waiting = false;
let view = () => [];

// Draw soon; several reasons make one drawing.
export function redraw() {
  if (waiting) return;
  waiting = true;
  queueMicrotask(() => {
    waiting = false;
    draw(place, ...[view()].flat());
  });
}

// `show()` answers what is on the page, `heard(message)` takes in what the feed says.
export function start(query, show, heard) {
  view = show;
  setClock(data.at);
  redraw();
  queueMicrotask(() => queueMicrotask(() => { // after the first drawing
    performance.mark("interactive");
    document.documentElement.dataset.ready = "yes";
  }));
  if (query === null) return null;
  return new Feed(query, (message) => {
    setClock(message.at);
    if (message.type !== "tick") heard(message);
    redraw();
  }, feedState);
}

function feedState({ live, since }) {
  if (live === connected) return;
  connected = live;
  document.body.classList.toggle("stale", !live);
  if (live) {
    draw(lamp, h("span", { class: "mark direct", "aria-hidden": "true" }, "●"), " live");
    document.getElementById("banner")?.remove();
    return;
  }
  draw(lamp, h("span", { class: "mark offline", "aria-hidden": "true" }, "○"), " not live");
  const banner = h("p", { id: "banner", class: "banner", role: "alert" },
    "Server not reachable since ", h("time", { datetime: new Date(since).toISOString(), title: absolute(since) },
    clock(since)), ". This is what it said last; trying again.");
  place.before(banner);
}

// Said to screen readers when a state changes, and not with every number.
export function sayChange(name, was, is) {
  if (was && is && was !== is) announce(`${name}: ${is}`);
}
