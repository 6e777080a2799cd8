// The web terminal: xterm.js joined to a reconnecting PTY by a WebSocket.
//
// The terminal's identity is in the address (#uuid), so that a reload, a restored tab or a bookmark finds the same shell.
// Binary messages are the terminal's bytes; text messages are facts about the path. Marks (OSC 7766, see protocol.py)
// say whether the shell is new, how much of what follows is old, and how it ended.

const root = document.getElementById("terminal");
const state = document.getElementById("state");
const path = document.getElementById("path");
const act = document.getElementById("act");
const { agent, label, command, ask, modules } = root.dataset;
const FIRST_MARK = /^\x1b\]7766;(?:new|kept;(\d+))\x07/;
const LAST_MARK = /\x1b\]7766;end;(\w+);(\d+)\x07$/;
const LONGEST_MARK = 40;
const IDLE = "ended: nobody was looking";
const MOST_EARLY = 256;
const FIRST_PAUSE = 250;
const LONGEST_PAUSE = 8000;

const dark = matchMedia("(prefers-color-scheme: dark)");
const THEMES = {
  light: {
    background: "#ffffff", foreground: "#1b1f24", cursor: "#1b1f24", cursorAccent: "#ffffff",
    selectionBackground: "#b6d4fe", black: "#24292f", red: "#b3150f", green: "#116329", yellow: "#7a4d00",
    blue: "#0757c2", magenta: "#7d3fc4", cyan: "#0f6674", white: "#6e7781", brightBlack: "#57606a",
    brightRed: "#8c0f0a", brightGreen: "#0c5121", brightYellow: "#5f3c00", brightBlue: "#05449a",
    brightMagenta: "#6231a0", brightCyan: "#0a4f5b", brightWhite: "#424a53",
  },
  dark: { background: "#101418", foreground: "#d7dde4", cursor: "#d7dde4", cursorAccent: "#101418",
    selectionBackground: "#2f4f75" },
};

let terminal;
let fit;
let socket;
let pause = FIRST_PAUSE;
let timer;
let tail = ""; // the end of what came, one character per byte: the agent's last word is in it
let marked = false; // does the agent say how a shell ends?
let replay = 0; // bytes of old output that are still to come
let quiet = 0; // writes of old output that xterm has not digested: what it answers to them goes nowhere
let opened = false; // has there been a connection before?
let over = false;
const early = [];

const shown = { mark: "○", path: "" };

function say(text, kind = "") {
  state.textContent = text;
  state.dataset.kind = kind;
  document.title = `${shown.mark} ${label} · terminal`;
}

function offer(text, run) {
  act.hidden = !text;
  act.textContent = text;
  act.onclick = run;
}

function identity(fresh = false) {
  const known = location.hash.slice(1);
  if (!fresh && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(known)) return known;
  const made = uuid();
  history.replaceState(null, "", `#${made}`);
  return made;
}

function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // pages over plain HTTP have no randomUUID
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// ---------------------------------------------------------------- the connection

function connect() {
  clearTimeout(timer);
  offer("");
  tail = "";
  marked = false;
  replay = 0;
  const address = new URL(`/api/v2/workspaceagents/${agent}/pty`, location.href);
  address.protocol = address.protocol.replace("http", "ws");
  address.search = new URLSearchParams({
    reconnect: identity(), width: terminal.cols, height: terminal.rows, command, marks: true,
  });
  const mine = (socket = new WebSocket(address));
  mine.binaryType = "arraybuffer";
  let heard = false;
  mine.onopen = () => early.splice(0).forEach(send);
  mine.onmessage = ({ data }) => {
    if (typeof data === "string") return showPath(JSON.parse(data).path);
    let bytes = new Uint8Array(data);
    if (!heard) {
      heard = true;
      bytes = begin(bytes);
    }
    show(bytes);
  };
  mine.onclose = (event) => {
    if (mine !== socket) return;
    showPath({ kind: "none" });
    const last = LAST_MARK.exec(tail);
    if (event.code === 1000 && last) return ended(last[1] === "idle" ? IDLE : `exited with status ${last[2]}`);
    if (event.code === 1000 && heard && !marked) return ended("ended"); // a stock agent does not say more
    if (event.code === 1008) return signedOut();
    lost(marked && event.code === 1000 ? "the agent stopped" : event.reason, heard || event.code === 1011 || event.code === 1012);
  };
}

async function lost(reason, known) {
  if (!known) {
    // A refused handshake has no words in a browser; the API has.
    const answer = await fetch(`/api/v2/workspaceagents/${agent}`).catch(() => undefined);
    if (answer?.status === 401) return signedOut();
    if (answer?.status === 404) return say("This workspace is gone, or no longer yours", "fault");
  }
  again(reason);
}

function again(reason) {
  const wait = pause * (0.75 + Math.random() / 2);
  pause = Math.min(pause * 2, LONGEST_PAUSE);
  say(`Reconnecting… ${reason ? `(${reason})` : ""}`, "fault");
  offer("Try now", connect);
  clearTimeout(timer);
  timer = setTimeout(connect, wait);
}

function signedOut() {
  say("You are signed out", "fault");
  offer("Sign in", () => location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`));
}

function ended(how) {
  over = true;
  say(`The shell ${how}`);
  terminal.write(`\r\n\x1b[2m[${how}; press Enter for a new shell]\x1b[0m\r\n`);
  offer("New shell", restart);
  terminal.focus();
}

function restart() {
  over = false;
  opened = false;
  identity(true);
  terminal.reset();
  connect();
}

// ---------------------------------------------------------------- what is shown

function begin(bytes) {
  // The first message of a connection: the agent's mark, then perhaps old output.
  pause = FIRST_PAUSE;
  say("");
  const mark = FIRST_MARK.exec(latin(bytes.subarray(0, LONGEST_MARK)));
  if (opened) {
    terminal.reset(); // what was shown comes again, from the agent's memory
    if (mark && mark[1] === undefined) terminal.write("\x1b[2m[the shell ended with its agent: this is a new one]\x1b[0m\r\n");
  }
  opened = true;
  marked = mark !== null;
  replay = Number(mark?.[1] ?? 0);
  return bytes.subarray(mark ? mark[0].length : 0);
}

function show(bytes) {
  tail = (tail + latin(bytes.subarray(-LONGEST_MARK))).slice(-LONGEST_MARK);
  if (replay > 0) {
    const old = bytes.subarray(0, replay);
    replay -= old.length;
    quiet += 1;
    terminal.write(old, () => (quiet -= 1));
    bytes = bytes.subarray(old.length);
  }
  if (bytes.length) terminal.write(bytes);
}

function latin(bytes) {
  return String.fromCharCode(...bytes);
}

function showPath({ kind, region, latency_ms: latency, reason }) {
  const time = latency == null ? "" : ` · ${latency} ms`;
  const words = { direct: `● direct${time}`, relayed: `◐ relayed via ${region}${time}`, none: "○ no path yet" }[kind];
  shown.mark = words[0];
  path.textContent = words;
  path.title = reason || "What carries the server's leg to the workspace";
  say(state.textContent, state.dataset.kind);
}

// ---------------------------------------------------------------- the start

function send(message) {
  // What is typed while a shell starts is for that shell; what is typed into a lost connection is for nobody.
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  else if (!opened && early.length < MOST_EARLY) early.push(message);
}

function type(data) {
  if (over && data === "\r") restart();
  else if (!over && !quiet) send({ data });
}

async function load() {
  try {
    const [{ Terminal }, { FitAddon }] = await Promise.all([
      import(`${modules}xterm/lib/xterm.mjs`),
      import(`${modules}addon-fit/lib/addon-fit.mjs`),
    ]);
    return { Terminal, FitAddon };
  } catch (error) {
    const answer = await fetch(`${modules}xterm/lib/xterm.mjs`).catch(() => undefined);
    say("The terminal cannot be shown", "fault");
    const words = document.createElement("p");
    words.textContent = answer?.ok ? String(error) : ((await answer?.text()) ?? "The server does not answer.");
    root.append(words, Object.assign(document.createElement("p"),
      { textContent: `Meanwhile, in a shell: coder terminal ${label}` }));
    return undefined;
  }
}

function allowStyles() {
  // xterm.js makes style elements; the page's policy takes those that carry its nonce.
  const { nonce } = document.querySelector("meta[name=style-nonce]");
  const make = document.createElement.bind(document);
  document.createElement = (name, options) => {
    const element = make(name, options);
    if (name === "style") element.nonce = nonce;
    return element;
  };
}

async function start() {
  const parts = await load();
  if (!parts) return;
  allowStyles();
  terminal = new parts.Terminal({
    theme: dark.matches ? THEMES.dark : THEMES.light,
    fontFamily: "ui-monospace, 'Cascadia Mono', 'DejaVu Sans Mono', Menlo, Consolas, monospace",
    fontSize: 14, lineHeight: 1.2, scrollback: 10000, // with 1.0 some fonts lose the underscore
    cursorBlink: false, // it costs a key 24 ms until its echo is seen, of 30 (make bench ONLY=keystroke)
  });
  dark.addEventListener("change", () => (terminal.options.theme = dark.matches ? THEMES.dark : THEMES.light));
  fit = new parts.FitAddon();
  terminal.loadAddon(fit);
  terminal.open(root);
  terminal.onData(type);
  terminal.onResize(({ cols, rows }) => send({ width: cols, height: rows }));
  fit.fit();
  new ResizeObserver(() => fit.fit()).observe(root);
  addEventListener("online", () => state.dataset.kind === "fault" && connect());
  addEventListener("hashchange", () => { opened = true; over = false; connect(); });
  terminal.focus();
  if (!ask) return connect();
  say(`This link wants to run: ${command}`, "fault");
  offer("Run it", connect);
}

start();
