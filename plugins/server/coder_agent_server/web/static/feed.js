// The live feed: one WebSocket, dialled again for as long as the page is open. Nothing is polled.

const SILENCE = 15000; // ms without a message after which the server is called unreachable; it ticks every 5 s
const FIRST_WAIT = 500;
const LONGEST_WAIT = 10000;
const SIGNED_OUT = 4401;

export class Feed {
  // `heard(message)` for each message, `state({live, since, retry})` when the connection comes or goes.
  constructor(query, heard, state) {
    this.query = query;
    this.heard = heard;
    this.state = state;
    this.wait = FIRST_WAIT;
    this.last = Date.now();
    this.ended = false;
    window.addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.hurry());
    this.dial();
  }

  dial() {
    if (this.ended) return;
    this.timer = null;
    const url = new URL("/api/v2/dashboard/watch" + this.query, location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(url));
    this.watch();
    socket.onmessage = (event) => {
      this.last = Date.now();
      this.wait = FIRST_WAIT;
      this.watch();
      this.state({ live: true });
      this.heard(JSON.parse(event.data));
    };
    socket.onclose = (event) => this.socket === socket && this.lost(event.code);
  }

  // A network that swallows everything closes nothing: silence is the only sign.
  watch() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      const socket = this.socket;
      this.lost(0);
      socket.close();
    }, SILENCE);
  }

  lost(code) {
    clearTimeout(this.silence);
    this.socket = null;
    if (code === SIGNED_OUT) return signIn();
    if (this.ended) return;
    const wait = this.wait * (0.75 + Math.random() / 2); // not all pages at once
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
    this.timer = setTimeout(() => this.dial(), wait);
    this.state({ live: false, since: this.last });
    this.ask();
  }

  // A handshake that was refused says nothing to scripts: is it us?
  async ask() {
    try {
      const reply = await fetch("/api/v2/users/me");
      if (reply.status === 401) signIn();
    } catch {
      // The server is away; the feed keeps trying.
    }
  }

  hurry() {
    if (this.timer === null || this.ended) return;
    clearTimeout(this.timer);
    this.dial();
  }

  end() {
    this.ended = true;
    clearTimeout(this.silence);
    if (this.socket) this.socket.close();
  }
}

export function signIn() {
  location.assign("/login?next=" + encodeURIComponent(location.pathname));
}
