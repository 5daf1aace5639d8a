"""Who may ask: the user's own browser, and nobody through it.

A page of a stranger in that browser can send requests to this machine. What protects:

- the name by which the server was asked is an address or this machine's own, never one that a
  stranger's DNS made point here (rebinding);
- requests that the browser marks as another site's are refused, and so are those with another
  ``Origin``; what changes or computes something has to be JSON, which no form can send;
- where other machines can reach the server, a token, which the printed address holds and the
  browser then keeps in a cookie that only this site is sent.

Every answer forbids scripts, styles and pictures that are not this server's own, frames, and
guesses about its type.
"""

import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COOKIE, FIELD = "vt-serve", "token"
HTTP = 80  # the port of an address without one


class Guard:
    """ASGI application: ``app`` for those who may ask."""

    def __init__(self, app: ASGIApp, names: frozenset[str], token: str | None = None):
        """Guard ``app``.

        Args:
            names: of this machine; its addresses are always allowed.
            token: what has to be known; None: nothing.
        """
        self.app, self.names, self.token = app, names, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; connections of other kinds than HTTP are not answered."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        # Given in the address, the token goes into the cookie.
        given = parse_qs(scope["query_string"].decode("latin-1")).get(FIELD, [""])[0]

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    own[name] = value
                if self.token is not None and self._knows(given):
                    name = cookie_name(headers)
                    own["Set-Cookie"] = f"{name}={given}; Path=/; HttpOnly; SameSite=Strict"
            await send(message)

        app = self._refusal(scope, headers, given) or self.app
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Headers, given: str) -> ASGIApp | None:
        """The answer to who may not ask."""
        host = headers.get("host", "")
        if not is_own(host, self.names):
            names = ", ".join(sorted(self.names))
            return refused(f"open this page by its address, or as {names}, not as {host[:80]!r}")
        is_page = scope["method"] in ("GET", "HEAD") and scope["path"] == "/"
        if not is_page and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return refused("asked by a page of another site")
        if (origin := headers.get("origin")) is not None and netloc(origin) != host.lower():
            return refused("asked by a page of another site")
        if scope["method"] == "POST" and headers.get("content-type") != "application/json":
            return refused("expected JSON (Content-Type: application/json)", 415)
        if self.token is not None and not any(map(self._knows, (given, *offered(headers)))):
            return refused("open the address that vt-serve printed, with its token", 401)
        return None

    def _knows(self, token: str) -> bool:
        return self.token is not None and secrets.compare_digest(
            token.encode("utf-8", "replace"), self.token.encode()
        )


def offered(headers: Headers) -> list[str]:
    """Tokens that a request brings: in its cookie, or as a program's ``Authorization: Bearer``."""
    found = []
    try:
        cookie = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        cookie = SimpleCookie()
    if (name := cookie_name(headers)) in cookie:
        found.append(cookie[name].value)
    kind, _, value = headers.get("authorization", "").partition(" ")
    return [*found, value] if kind.lower() == "bearer" else found


def cookie_name(headers: Headers) -> str:
    """That of the port by which the browser asks, which sends a cookie to all ports of a host."""
    try:
        port = urlsplit(f"//{headers.get('host', '')}").port
    except ValueError:
        port = None
    return f"{COOKIE}-{port or HTTP}"


def refused(reason: str, code: int = 403) -> JSONResponse:
    """The answer with that reason."""
    return JSONResponse({"error": reason}, code)


def is_own(host: str, names: frozenset[str]) -> bool:
    """Whether a ``Host`` header has an address, or one of this machine's ``names``."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def netloc(origin: str) -> str:
    """Host and port of an ``Origin``; "" for none, and for what is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
