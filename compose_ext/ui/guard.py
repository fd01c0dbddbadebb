"""The page's door: who may ask, and what a browser may do with the answer. No framework, so that nothing passes it.

Whoever has an account on this machine can reach the port, and every page that the user's browser shows can send
requests to it. A name of a stranger's that resolves to 127.0.0.1 (DNS rebinding) would even let such a page read.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_READING = ("GET", "HEAD")
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""No inline script or style, nothing from elsewhere, nowhere to send anything."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An ASGI application in front of another one.

    Args:
        app: the other one.
        hosts: as a browser names us, `127.0.0.1:8080`.
        token: the first part of each address.
    """

    def __init__(self, app: App, hosts: frozenset[str], token: str) -> None:
        self._app, self._hosts, self._token = app, hosts, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            status, text = self._refusal(scope, headers)
            if status:
                await _refuse(send, status, text)
            else:
                await self._app(scope, receive, _with_headers(send))

    def _refusal(self, scope: Message, headers: MutableMapping[str, str]) -> tuple[int, str]:
        """Return status and text of a refusal; 0 where the request may pass."""
        if headers.get("host") not in self._hosts:
            return 403, "this page is only for a browser on the machine that runs `docker linkwire ui`"
        if scope["method"] not in _READING:
            return 405, "this page is read-only: GET and HEAD"
        token = scope["path"].removeprefix("/").partition("/")[0]
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return 404, "copy the whole address that `docker linkwire ui` printed; it is another one each time"
        if self._is_strangers(headers):
            return 403, "this page answers no other page"
        return 0, ""

    def _is_strangers(self, headers: MutableMapping[str, str]) -> bool:
        """Whether another page's script or frame asks; a link that the user follows to the page may be anywhere."""
        origin = headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            return True
        follows = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not follows


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = {name.lower().encode(): value.encode() for name, value in HEADERS.items()}
            kept = [(name, value) for name, value in message.get("headers", ()) if name not in added]
            message = {**message, "headers": [*kept, *added.items()]}
        await send(message)

    return sent


async def _refuse(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    allowed = [(b"allow", ", ".join(_READING).encode())] if status == 405 else []  # noqa: PLR2004 - RFC 9110 wants it
    start = {"type": "http.response.start", "status": status, "headers": [*headers, *allowed]}
    sent = _with_headers(send)
    await sent(start)
    await sent({"type": "http.response.body", "body": body})
