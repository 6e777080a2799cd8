"""Pages of apps below a path: what they name from the root (``/static/x.js``) is moved below the app's own path.

Two parts. Attributes of tags are rewritten as the page passes, without a parser: only ``src``, ``href``, ``action``,
``formaction``, ``poster``, ``data`` and ``srcset`` with a value that begins with one slash. And a small script goes
first into the page: it does the same for what scripts ask for later (fetch, XMLHttpRequest, WebSocket, EventSource,
Worker, history, elements), for a WebSocket has no Referer by which the server could tell whose it is. In a sandbox,
where browsers refuse `localStorage` and cookies with an exception, it lends the page a storage that lasts as long as
the page.

Not guaranteed: URLs in style sheets and imports of scripts are left alone; those the server finds by their Referer
(proxy.py), except in a sandbox, which sends none.
"""

from __future__ import annotations

import json
import re

from .http1 import Body, ResponseHead

_ATTRIBUTE = re.compile(
    rb"""([\s"'](?:src|href|action|formaction|poster|data|srcset|imagesrcset)\s*=\s*["']?)/(?!/)([^\s"'>]*)""",
    re.IGNORECASE,
)
_TAG = re.compile(rb"<[A-Za-z](?:[^<>\"']|\"[^\"]*\"|'[^']*')*>")
_OPEN = re.compile(rb"<(?:[A-Za-z]|$)")
_HEAD = re.compile(rb"<head(?:\s[^>]*)?>", re.IGNORECASE)
_DOCTYPE = re.compile(rb"\s*(?:<!doctype[^>]*>)?\s*(?:<html[^>]*>)?", re.IGNORECASE)
MAX_TAG = 16 << 10
"""Bytes that are held back for a tag to end."""

_SCRIPT = """(()=>{const B=%s,S=%s,O=location.origin==="null"?new URL(location.href).origin:location.origin,
H=new URL(location.href).host;
const fix=u=>{try{if(u instanceof URL)return fix(u.href);if(typeof u!=="string")return u;
if(u[0]==="/"&&u[1]!=="/")return u.startsWith(B)?u:B+u.slice(1);
const m=/^(https?|wss?):\\/\\/([^/?#]+)(\\/[^]*)?$/i.exec(u);
if(m&&m[2]===H&&!(m[3]||"/").startsWith(B))return m[1]+"://"+m[2]+B+(m[3]||"/").slice(1)}catch(e){}return u};
const wrap=(n,i)=>{const C=window[n];if(!C)return;window[n]=new Proxy(C,{construct(t,a,x){a[0]=fix(a[0]);
return Reflect.construct(t,a,x)}})};
["WebSocket","EventSource","Worker","SharedWorker"].forEach(n=>wrap(n));
const f=window.fetch;if(f)window.fetch=function(r,o){if(r instanceof Request){const u=fix(r.url);
if(u!==r.url)r=new Request(u,r)}else r=fix(String(r));return f.call(this,r,o)};
const patch=(o,n,k)=>{const g=o&&o[n];if(g)o[n]=function(...a){a[k]=fix(a[k]);return g.apply(this,a)}};
patch(XMLHttpRequest.prototype,"open",1);patch(navigator,"sendBeacon",0);patch(window,"open",0);
["pushState","replaceState"].forEach(n=>{const g=history[n];history[n]=function(...a){
if(a[2]!=null)a[2]=fix(String(a[2]));
return g.apply(this,a)}});
const A=["src","href","action","formaction","poster","data"],sa=Element.prototype.setAttribute;
Element.prototype.setAttribute=function(n,v){return sa.call(this,n,A.includes(String(n).toLowerCase())?fix(v):v)};
[[HTMLScriptElement,"src"],[HTMLImageElement,"src"],[HTMLLinkElement,"href"],[HTMLAnchorElement,"href"],
[HTMLIFrameElement,"src"],[HTMLFormElement,"action"],[HTMLMediaElement,"src"],[HTMLSourceElement,"src"]]
.forEach(([C,n])=>{const d=Object.getOwnPropertyDescriptor(C.prototype,n);
if(d&&d.set)Object.defineProperty(C.prototype,n,
{...d,set(v){d.set.call(this,fix(v))}})});
if(S){const store=()=>{const m=new Map();return new Proxy({getItem:k=>m.has(String(k))?m.get(String(k)):null,
setItem:(k,v)=>{m.set(String(k),String(v))},removeItem:k=>{m.delete(String(k))},clear:()=>m.clear(),
key:i=>[...m.keys()][i]??null,
get length(){return m.size}},{get:(t,k)=>k in t?t[k]:m.has(k)?m.get(k):undefined,set:(t,k,v)=>{
m.set(k,String(v));return true}})};
for(const n of["localStorage","sessionStorage"])try{window[n]}catch(e){
try{Object.defineProperty(window,n,{value:store()})}catch(e){}}
try{document.cookie}catch(e){let c="";try{Object.defineProperty(document,"cookie",{get:()=>c,set:v=>{
const p=String(v).split(";")[0];c=c?c+"; "+p:p}})}catch(e){}}}
document.currentScript&&document.currentScript.remove()})()"""


def wants_rewriting(response: ResponseHead) -> bool:
    """Is it a whole page in HTML that we can read?"""
    kind = response.named.get(b"content-type", b"").partition(b";")[0].strip().lower()
    packed = response.named.get(b"content-encoding", b"identity").lower()
    whole = response.body is not Body.NONE and response.status != 206
    return whole and kind == b"text/html" and packed in (b"", b"identity")


def script_for(base: str, *, sandboxed: bool) -> bytes:
    """The script's element."""
    text = _SCRIPT % (json.dumps(base), "true" if sandboxed else "false")
    return b"<script>" + text.replace("\n", "").encode() + b"</script>"


class HtmlBelow:
    """Feed it a page; it returns the page as it must be below `base`."""

    def __init__(self, base: str, *, sandboxed: bool) -> None:
        self._base = base.encode("latin-1")
        self._script: bytes | None = script_for(base, sandboxed=sandboxed)
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What can be passed on so far. A tag that has not ended is held back."""
        data = self._held + data
        cut = data.rfind(b"<")
        if cut >= 0 and len(data) - cut < MAX_TAG and _OPEN.match(data, cut) and not _TAG.match(data, cut):
            data, self._held = data[:cut], data[cut:]
        else:
            self._held = b""
        return self._begin(data) if self._script is not None else self._tags(data)

    def end(self) -> bytes:
        """The rest."""
        data, self._held = self._held, b""
        if self._script is not None:
            data, self._script = self._insert(data), None
        return self._tags(data)

    def _begin(self, data: bytes) -> bytes:
        if _HEAD.search(data) is None and len(data) + len(self._held) < 1024:
            self._held = data + self._held  # the head may still come
            return b""
        whole = self._insert(data)
        script = self._script or b""
        self._script = None
        before, mark, after = whole.partition(script)
        return self._tags(before) + mark + self._tags(after)

    def _insert(self, data: bytes) -> bytes:
        """The script behind ``<head>``, else at the beginning, where it opens a head by itself."""
        found = _HEAD.search(data) or _DOCTYPE.match(data)
        at = found.end() if found is not None else 0
        return data[:at] + (self._script or b"") + data[at:]

    def _tags(self, data: bytes) -> bytes:
        return _TAG.sub(self._tag, data)

    def _tag(self, found: re.Match[bytes]) -> bytes:
        return _ATTRIBUTE.sub(self._attribute, found[0])

    def _attribute(self, found: re.Match[bytes]) -> bytes:
        path = b"/" + found[2]
        return found[0] if path.startswith(self._base) else found[1] + self._base + found[2]
