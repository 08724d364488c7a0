"""Who may speak to the server: whoever knows KNNEX_TOKEN; without a token, this machine alone."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import time

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .answers import Declined, declined
from .body import Budget, read_body

log = logging.getLogger(__name__)

# Paths that ask for nothing: what watches the server need not know the token.
_OPEN = frozenset({"/health"})
# Seconds by which the clock of a signature may differ (https://github.com/standard-webhooks/standard-webhooks).
_SKEW = 300
# Bytes of a key for signatures.
_SHORTEST_KEY = 24


class Guard:
    """Lets requests through that carry the token, or a signature made with it."""

    def __init__(self, app: ASGIApp, token: str | None, budget: Budget) -> None:
        self._app, self._budget = app, budget
        self._token = None if token is None else token.encode()
        self._key = _key_of(token or "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await self._check(scope, receive)
        except Declined as failure:
            await declined(failure)(scope, receive, send)
            return
        except ClientDisconnect:
            return
        try:
            await self._app(scope, receive if body is None else _replay(body, receive), send)
        finally:
            if body is not None:
                self._budget.give_back(len(body))

    async def _check(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body, where it had to be read for its signature. Raises Declined (401, 403)."""
        headers = Headers(scope=scope)
        if self._token is None:
            _check_host(headers.get("host", ""))
            return None
        # Not the URL, which the Host header has a part in.
        if scope["path"] in _OPEN:
            return None
        given = headers.get("authorization")
        if given is None and "webhook-signature" in headers:
            return await self._signed(Request(scope, receive), headers)
        if given is None:
            raise Declined(
                401,
                "this server asks for a token",
                "send `Authorization: Bearer TOKEN`, with what KNNEX_TOKEN is where the server runs",
                {"WWW-Authenticate": "Bearer"},
            )
        kind, _, token = given.partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(token.strip().encode("latin-1"), self._token):
            log.warning("A request with a wrong token", extra={"action": "refused_token", "path": scope["path"]})
            raise Declined(403, "this is not the token of this server", "compare it with KNNEX_TOKEN of the server")
        return None

    async def _signed(self, request: Request, headers: Headers) -> bytes:
        if self._key is None:
            raise Declined(
                403,
                "KNNEX_TOKEN of this server is no key for signatures",
                f"make it the base64 of {_SHORTEST_KEY} to 64 random bytes, or send it as `Authorization: Bearer`",
            )
        body = await read_body(request, self._budget)
        sent, name = headers.get("webhook-timestamp", ""), headers.get("webhook-id", "")
        signed = f"{name}.{sent}.".encode("latin-1", "replace") + body
        right = base64.b64encode(hmac.new(self._key, signed, hashlib.sha256).digest())
        given = [
            one[3:].encode("latin-1", "replace") for one in headers["webhook-signature"].split() if one[:3] == "v1,"
        ]
        timely = sent.isascii() and sent.isdigit() and len(sent) < 16 and abs(time.time() - int(sent)) <= _SKEW
        if not timely or not any(hmac.compare_digest(one, right) for one in given):
            self._budget.give_back(len(body))
            log.warning("A request with a wrong signature", extra={"action": "refused_token"})
            raise Declined(
                403,
                "the signature is not of this body and this server's token" if timely else "the signature is too old",
                "compare the secret with KNNEX_TOKEN of the server, and the clocks",
            )
        return body


def _key_of(token: str) -> bytes | None:
    try:
        key = base64.b64decode(token.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) >= _SHORTEST_KEY else None


def _check_host(host: str) -> None:
    """A page from elsewhere can have its own name lead to this machine: such a request names the page's host."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() == "localhost":
        return
    try:
        if ipaddress.ip_address(name.strip("[]")).is_loopback:
            return
    except ValueError:
        pass
    raise Declined(
        403,
        "without a token this server is called localhost, and nothing else",
        "call it http://127.0.0.1:PORT, or set KNNEX_TOKEN",
    )


def _replay(body: bytes, receive: Receive) -> Receive:
    """What was read for the signature, once more."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
