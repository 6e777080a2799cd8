// Runs first in every page of an app that lives below a path but names everything from the root (html.py puts it there,
// without these comments). BASE is where the browser sees the app, SANDBOXED whether the page has an origin of its own,
// INSIDE the hosts by which the app may call itself, COOKIES what it may read of the cookies that the server keeps.
(BASE, SANDBOXED, INSIDE, COOKIES) => {
const here = new URL(location.href);
const isOurs = (host) => host === here.host || INSIDE.includes(host.toLowerCase());
const below = (path) => (path.startsWith(BASE) || path === BASE.slice(0, -1) ? path : BASE + path.slice(1));

// A URL as the app means it; whatever is no string or URL, and what names another host, stays.
const move = (url) => {
  if (url instanceof URL) return move(url.href);
  if (typeof url !== "string") return url;
  if (/^\/(?![/\\])/.test(url)) return below(url);
  const found = /^(?:(https?|wss?):)?\/\/([^/?#\\]+)([^]*)$/i.exec(url);
  if (!found || !isOurs(found[2])) return url;
  const scheme = /^ws/i.test(found[1]) ? (here.protocol === "https:" ? "wss:" : "ws:") : here.protocol;
  return scheme + "//" + here.host + below(found[3].startsWith("/") ? found[3] : "/" + found[3]);
};
const guarded = (value) => { try { return move(value); } catch { return value; } };

// ---- what scripts ask for
const define = (target, name, value) => {
  try { Object.defineProperty(target, name, { value, configurable: true, writable: true }); } catch {}
};
const construct = (name, prepare) => {
  const known = window[name];
  if (known) define(window, name, new Proxy(known, {
    construct: (target, given, fresh) => Reflect.construct(target, prepare(given), fresh),
  }));
};
const first = ([url, ...rest]) => [guarded(url), ...rest];
// In a sandbox nothing is of the page's own origin: cookies would only make the answer unreadable.
const plain = (options) => (SANDBOXED && options && options.credentials === "include"
  ? { ...options, credentials: "same-origin" } : options);
construct("Request", ([url, options]) => [url instanceof Request ? url : guarded(String(url)), plain(options)]);
construct("WebSocket", first);
construct("EventSource", ([url, options]) => [guarded(url), SANDBOXED ? undefined : options]);
// Cookies of a sandboxed page: the server keeps them, and tells what scripts may read.
const jar = new Map(COOKIES);
const told = (text) => { if (SANDBOXED && text) for (const [name, value] of JSON.parse(text)) jar.set(name, value); };
const fetched = window.fetch;
define(window, "fetch", async function fetch(asked, options) {
  const url = asked instanceof Request ? guarded(asked.url) : guarded(String(asked));
  const meant = !(asked instanceof Request) ? url : url === asked.url ? asked : new Request(url, asked);
  const reply = await fetched.call(window, meant, plain(options));
  told(reply.headers.get("Coder-App-Cookies"));
  return reply;
});
const patch = (target, name, prepare) => {
  const known = target && target[name];
  if (known) define(target, name, function (...given) { return known.apply(this, prepare.call(this, given)); });
};
patch(XMLHttpRequest.prototype, "open", ([method, url, ...rest]) => [method, guarded(url), ...rest]);
patch(XMLHttpRequest.prototype, "send", function (given) {
  if (SANDBOXED) {
    this.withCredentials = false;
    this.addEventListener("load", () => told(this.getResponseHeader("Coder-App-Cookies")), { once: true });
  }
  return given;
});
patch(navigator, "sendBeacon", first);
patch(window, "open", (given) => (given.length ? first(given) : given));
patch(CSSStyleSheet.prototype, "insertRule", ([rule, ...rest]) => [styled(rule), ...rest]);
patch(CSSStyleSheet.prototype, "replaceSync", ([text]) => [styled(text)]);
patch(CSSStyleSheet.prototype, "replace", ([text]) => [styled(text)]);
patch(CSSStyleDeclaration.prototype, "setProperty", ([name, value, ...rest]) => [name, styled(value), ...rest]);
for (const name of ["pushState", "replaceState"]) {
  const known = history[name];
  history[name] = function (state, title, url) {
    if (url == null) return known.call(this, state, title);
    try { return known.call(this, state, title, guarded(String(url))); } catch (error) {
      // Chromium lets no sandboxed page change its path: the app goes on, the address bar stays.
      if (!SANDBOXED || error.name !== "SecurityError") throw error;
      return known.call(this, state, title);
    }
  };
}
const workers = (given) => {
  const [url, options] = first(given);
  const whole = new URL(url, document.baseURI);
  if (!SANDBOXED || !/^https?:/.test(whole.protocol)) return [url, options];
  // A worker of another origin may not be started, and ours is nobody's: one of our own runs the script.
  const isModule = options && options.type === "module";
  const name = JSON.stringify(whole.href);
  const code = isModule ? `import ${name}`
    : `{const i=importScripts,b=${name};importScripts=(...u)=>i(...u.map(x=>new URL(x,b).href))}importScripts(${name})`;
  return [URL.createObjectURL(new Blob([code], { type: "text/javascript" })), options];
};
construct("Worker", workers);
construct("SharedWorker", workers);

// ---- what scripts put into the page
const styled = (text) => (typeof text === "string"
  ? text.replace(/(url\(\s*["']?|@import\s+["'])(\/(?![/\\])[^"')]*)/gi, (_, before, url) => before + below(url)) : text);
const marked = (text) => (typeof text === "string" && text.includes("/") ? text.replace(
  /(<[a-z][^>]*?[\s"'](?:src|href|action|formaction|poster|data)\s*=\s*["']?)(\/(?![/\\])[^\s"'>]*)/gi,
  (_, before, url) => before + below(url)) : text);
const NAMES = ["src", "href", "action", "formaction", "poster", "data"];
patch(Element.prototype, "setAttribute", ([name, value]) => {
  const low = String(name).toLowerCase();
  return [name, NAMES.includes(low) ? guarded(value) : low === "style" ? styled(value) : value];
});
patch(Element.prototype, "insertAdjacentHTML", ([where, text]) => [where, marked(text)]);
patch(Document.prototype, "write", (given) => given.map(marked));
const setter = (type, name, prepare) => {
  const known = type && Object.getOwnPropertyDescriptor(type.prototype, name);
  if (known && known.set) Object.defineProperty(type.prototype, name, {
    ...known, set(value) { known.set.call(this, prepare(value)); },
  });
};
for (const [type, name] of [
  [HTMLScriptElement, "src"], [HTMLImageElement, "src"], [HTMLLinkElement, "href"], [HTMLAnchorElement, "href"],
  [HTMLIFrameElement, "src"], [HTMLFormElement, "action"], [HTMLMediaElement, "src"], [HTMLSourceElement, "src"],
  [HTMLEmbedElement, "src"], [HTMLObjectElement, "data"], [HTMLVideoElement, "poster"], [HTMLBaseElement, "href"],
]) setter(type, name, guarded);
for (const type of [Element, ShadowRoot]) setter(type, "innerHTML", marked);
setter(Element, "outerHTML", marked);
for (const name of ["cssText", "background", "backgroundImage", "maskImage", "borderImage", "listStyleImage", "content"])
  setter(CSSStyleDeclaration, name, styled);

// Where scripts lead the whole window (location.href = "/x"), which nothing can intercept before: browsers that have the
// navigation API ask here. A sandbox has it not.
if (window.navigation && !SANDBOXED) navigation.addEventListener("navigate", (event) => {
  const url = guarded(event.destination.url);
  if (url === event.destination.url || !event.cancelable || event.formData || event.downloadRequest !== null) return;
  event.preventDefault();
  if (event.navigationType === "replace") location.replace(url); else location.href = url;
});

if (SANDBOXED) {
  // Style sheets that scripts write: there is no Referer from here by which the server could find what they ask for.
  const restyle = (element) => {
    const text = element.textContent;
    const fixed = styled(text);
    if (fixed !== text) element.textContent = fixed;
  };
  new MutationObserver((changes) => {
    for (const { target, addedNodes } of changes) {
      const near = target.nodeType === 3 ? target.parentNode : target;
      if (near instanceof HTMLStyleElement) restyle(near);
      for (const node of addedNodes) {
        if (node instanceof HTMLStyleElement) restyle(node);
        else if (node.firstElementChild) node.querySelectorAll("style").forEach(restyle);
      }
    }
  }).observe(document, { childList: true, subtree: true, characterData: true });

  // What belongs to an origin is refused here with an exception, at which many an app ends. Storage lasts as long as
  // the page; the rest is absent or says no in the way that apps expect.
  const storage = () => {
    const kept = new Map();
    const own = {
      getItem: (key) => kept.get(String(key)) ?? null,
      setItem: (key, value) => void kept.set(String(key), String(value)),
      removeItem: (key) => void kept.delete(String(key)),
      clear: () => kept.clear(),
      key: (at) => [...kept.keys()][at] ?? null,
    };
    return new Proxy(own, {
      get: (target, name) => (name === "length" ? kept.size : target[name] ?? kept.get(name)),
      set: (target, name, value) => { kept.set(name, String(value)); return true; },
      has: (target, name) => name in target || kept.has(name),
      deleteProperty: (target, name) => { kept.delete(name); return true; },
      ownKeys: () => [...kept.keys()],
      getOwnPropertyDescriptor: (target, name) => (kept.has(name)
        ? { value: kept.get(name), enumerable: true, configurable: true, writable: true } : undefined),
    });
  };
  for (const name of ["localStorage", "sessionStorage"]) define(window, name, storage());
  const missed = new Set();
  for (const name of ["indexedDB", "caches", "cookieStore"]) try {
    Object.defineProperty(window, name, { configurable: true, get: () => void missed.add(name) });
  } catch {}
  const never = () => new Promise(() => {});
  if ("serviceWorker" in navigator) define(navigator, "serviceWorker", {
    register: never, ready: never(), controller: null, startMessages() {},
    getRegistration: () => Promise.resolve(undefined), getRegistrations: () => Promise.resolve([]),
    addEventListener() {}, removeEventListener() {},
  });
  // An app that ends at something of that kind leaves a blank page: say why, once, and what helps.
  let hinted = false;
  const hint = () => {
    if (hinted || !document.body) return;
    hinted = true;
    const [, place, port] = /^\/@[^/]+\/([^/]+)\/ports\/(\d+)/.exec(BASE) ?? [];
    const bar = document.createElement("coder-sandbox-hint");
    const shadow = bar.attachShadow({ mode: "open" });
    const say = (name, text) => Object.assign(shadow.appendChild(document.createElement(name)), { textContent: text });
    say("span", "This app asked for something that is refused in its sandbox, and may not work here. "
      + (port ? "If the workspace is yours and you trust the app: " : "It works on a host of its own."));
    if (port) {
      say("code", `coder port-share ${place} ${port} --share owner --trust`);
      say("span", ", or open it on a host of its own.");
    }
    say("button", "Close").onclick = () => bar.remove();
    bar.setAttribute("role", "status");
    bar.style.cssText = "position:fixed;inset:auto 0 0 0;z-index:2147483647;padding:.7em 1em;font:14px/1.5 system-ui;"
      + "background:#222;color:#fff;text-align:center";
    document.body.append(bar);
  };
  const troubled = (error) => {
    if (error && (error.name === "SecurityError" || (error.name === "TypeError" && missed.size))) hint();
  };
  addEventListener("error", (event) => troubled(event.error));
  addEventListener("unhandledrejection", (event) => troubled(event.reason));

  Object.defineProperty(document, "cookie", {
    configurable: true,
    get: () => [...jar].map(([name, value]) => `${name}=${value}`).join("; "),
    set: (text) => {
      const [pair, ...rest] = String(text).split(";");
      const [, name, value] = /^\s*(?:([^=]*)=)?([^]*?)\s*$/.exec(pair);
      const isOver = rest.some((part) => {
        const [, age, date] = /^\s*(?:max-age=(-?\d+)|expires=(.*))/i.exec(part) ?? [];
        return age ? Number(age) <= 0 : date ? new Date(date) <= new Date() : false;
      });
      if (isOver) jar.delete((name ?? "").trim()); else jar.set((name ?? "").trim(), value);
    },
  });
}
if (document.currentScript) document.currentScript.remove();
}
