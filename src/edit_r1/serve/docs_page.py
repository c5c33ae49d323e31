"""The OpenAPI page: Swagger UI as the package swagger-ui-py ships it, so that a browser needs no network but ours.

Not FastAPI's own page: that one asks three other sites, and cannot be opened by http://any:TOKEN@host/docs.
"""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import Response

PATH = "/docs"
_SCRIPT, _STYLE, _START = "swagger-ui-bundle.js", "swagger-ui.css", "start.js"
# Addresses are relative to the page, so that it works behind a proxy that puts it under another path.
_HTML = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>edit-r1 serve</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/{_STYLE}">
</head>
<body>
<div id="page"></div>
<script src="docs/{_SCRIPT}"></script>
<script src="docs/{_START}"></script>
</body>
</html>
"""
# A script may not fetch from an address with a password in it, which `location.origin` leaves out. Without validatorUrl
# a page that is not on localhost sends its address to a site of Swagger's.
_JAVASCRIPT = """SwaggerUIBundle({
  url: new URL("openapi.json", location.origin + location.pathname).href,
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_docs_page(app: FastAPI) -> None:
    """Adds /docs and what it loads. `app` is made with `docs_url=None`.

    Raises ModuleNotFoundError without the package, OSError when it lacks the files.
    """
    shipped = resources.files("swagger_ui") / "static"
    _add(app, PATH, _HTML.encode(), "text/html; charset=utf-8")
    _add(app, f"{PATH}/{_START}", _JAVASCRIPT.encode(), "text/javascript; charset=utf-8")
    _add(app, f"{PATH}/{_SCRIPT}", (shipped / _SCRIPT).read_bytes(), "text/javascript; charset=utf-8")
    _add(app, f"{PATH}/{_STYLE}", (shipped / _STYLE).read_bytes(), "text/css; charset=utf-8")


def _add(app: FastAPI, path: str, content: bytes, mime: str) -> None:
    @app.get(path, include_in_schema=False)
    async def file() -> Response:
        return Response(content, media_type=mime, headers=_HEADERS)
