"""The documentation's pages about causes and codes, where the dashboard's codes lead: they work offline, too."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

HELP = Path(__file__).parent / "help"
"""Links to the files in docs/; a wheel has copies."""
TITLES = {"why-relayed": "Why is this path relayed?", "health": "Health"}
_ELSEWHERE = re.compile(r'<a href="[^"#:]*\.md[^"]*">(.*?)</a>', re.DOTALL)
"""Links to pages that are not served here."""
_HEADING = re.compile(r"<h3>([a-z_]+)</h3>")
_CODE_CELL = re.compile(r"<tr>\n<td><code>([A-Z]+[0-9]+)</code>")


@cache
def help_html(name: str) -> str:
    """A page's body. Raises KeyError if there is none of this name."""
    from markdown_it import MarkdownIt  # at first use: most servers are never asked

    if name not in TITLES:
        raise KeyError(name)
    text = (HELP / f"{name}.md").read_text("utf-8")
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = _ELSEWHERE.sub(r"\1", html)
    html = _HEADING.sub(r'<h3 id="\1"><code>\1</code></h3>', html)
    html = _CODE_CELL.sub(r'<tr id="\1">\n<td><code>\1</code>', html)
    # What does not fit scrolls, and can be scrolled with the keyboard.
    return html.replace("<pre>", "<pre tabindex=0>")
