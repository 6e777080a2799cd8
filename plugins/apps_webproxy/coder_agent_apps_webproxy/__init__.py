"""Web apps and ports of workspaces in the browser, through the server's own tailnet node.

Pure (no I/O): addresses.py (which app does a URL mean), http1.py and chunked.py (strict HTTP/1.1), hygiene.py (what may
pass to and from an app), paths.py (apps below a path: Location, cookies, absolute paths), html.py (the same inside
pages), origins.py (CORS, foreign pages), sealing.py and signed_tokens.py (secrets that visitors carry), pages.py
(error pages). Shells: browser.py (a browser's connection), upstream.py (an app's connections), gate.py (who may),
exchange.py (one request), proxy.py (the connection route), routes.py (sign-in for app hosts). Read proxy.py first.
"""
