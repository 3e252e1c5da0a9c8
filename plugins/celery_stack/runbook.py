"""The runbook as a page, where the links of alerts lead: `/runbook#airflowqueuebacklog`.

Anybody may read it, at night and without a password: it is a file of this repository, and says nothing of this stack.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from markdown_it import MarkdownIt
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

FILE = Path(__file__).parents[2] / "monitoring/runbook.md"
STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere }
h2 { margin: 2rem 0 0; scroll-margin-top: 1rem }
h2:target { border-left: .3rem solid #d9480f; padding-left: .5rem }
p { margin: .3rem 0 }
"""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            f"style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Runbook</title>
<style>{style}</style>
</head>
<body>
{content}
</body>
</html>
"""


def create_app() -> Starlette:
    """Give the application for the api-server to mount; it has one page."""
    return Starlette(routes=[Route("/", show_page)])


def show_page(_request: Request) -> HTMLResponse:
    """Show the runbook as it lies on the disk."""
    return HTMLResponse(render_page(FILE.read_text()), headers=HEADERS)


def render_page(text: str) -> str:
    """Give Markdown as a page whose headings are the targets of links, in lower case."""
    html = MarkdownIt("commonmark", {"html": False, "breaks": True}).render(text)
    return PAGE.format(style=STYLE, content=re.sub(r"<h2>(\w+)</h2>", _heading, html))


def _heading(found: re.Match[str]) -> str:
    return f'<h2 id="{found[1].lower()}">{found[1]}</h2>'
