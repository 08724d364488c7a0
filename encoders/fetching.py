"""A file from the web, for somebody who may have chosen its URL to reach what only this machine can reach.

A name is resolved once, every address it has is looked at, and the connection goes to such an address and not to the
name again. Redirects are checked in the same way.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPResponse
from urllib.parse import quote, urljoin, urlsplit

from ..errors import InputError, SettingsError
from ..settings import settings

_REDIRECTS, _MOST_REDIRECTS = (301, 302, 303, 307, 308), 3
# With these, the same request may succeed later.
_LATER = (408, 425, 429)
_CONNECT_SECONDS, _MOST_ADDRESSES = 5.0, 4
# What an address of IPv6 may carry inside: NAT64 (RFC 6052), and where the IPv4 address begins, in bits from the right.
_EMBEDDING = {"64:ff9b::/96": 0, "::/96": 0, "2002::/16": 80}
_PUBLIC_6 = ipaddress.ip_network("2000::/3")
# Public by their number only: relays of 6to4, documentation, and the server that tells Azure's machines their secrets.
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("192.88.99.0/24", "168.63.129.16/32", "3fff::/20")))
_SAFE = "/%:@!$&'()*+,;=~-._?"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class _Place:
    """What a URL says: `target` is path and query, `named` what stands between `//` and `/`."""

    scheme: str
    host: str
    port: int
    named: str
    target: str


def addresses_of(host: str, port: int) -> list[str]:
    """The addresses of a name, by the system's resolver. Raises OSError."""
    return list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


@dataclass(frozen=True)
class Fetcher:
    """Fetches by http and https from public addresses, and from `hosts` wherever they are.

    At most `most` bytes within `seconds`, redirects included.
    """

    hosts: frozenset[str] = frozenset()
    most: int = 20_000_000
    seconds: float = 15.0
    resolve: Callable[[str, int], Sequence[str]] = addresses_of

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return tls_context()

    def fetch(self, url: str) -> bytes:
        """The body. Raises InputError for what is not to be had, OSError for what may be had later."""
        until = time.monotonic() + self.seconds
        try:
            for _ in range(_MOST_REDIRECTS + 1):
                found = self._get(_place(url), until)
                if isinstance(found, bytes):
                    return found
                url = urljoin(url, found)
        except ssl.SSLCertVerificationError as error:
            raise InputError(f"its server does not prove its name: {error.verify_message}") from None
        except (HTTPException, OSError) as error:
            if time.monotonic() >= until:  # the connection was cut
                raise TimeoutError(f"it takes longer than {self.seconds:g} s") from None
            if isinstance(error, OSError):
                raise
            raise ConnectionError(f"its server does not speak HTTP: {type(error).__name__}") from None
        raise InputError(f"it redirects more than {_MOST_REDIRECTS} times")

    def _get(self, place: _Place, until: float) -> bytes | str:
        """The body, or where it has gone."""
        with closing(self._connected(place, until)) as plain, _ended(plain, until) as connected:
            sock = connected(self._tls, place.host) if place.scheme == "https" else plain
            connection = HTTPConnection(place.host, place.port)
            connection.sock = sock
            headers = {"Host": place.named, "User-Agent": "knnex", "Accept": "image/*", "Connection": "close"}
            connection.request("GET", place.target, headers=headers | {"Accept-Encoding": "identity"})
            with closing(connection.getresponse()) as answer, closing(sock):
                found = self._body(answer)
        if time.monotonic() >= until:
            raise TimeoutError(f"it takes longer than {self.seconds:g} s")
        return found

    def _body(self, answer: HTTPResponse) -> bytes | str:
        if answer.status in _REDIRECTS:
            if place := answer.headers.get("Location"):
                return place
            raise InputError("it redirects to nowhere")
        if answer.status in _LATER or answer.status >= 500:
            raise ConnectionError(f"its server answers {answer.status}")
        if answer.status != 200:
            raise InputError(f"its server answers {answer.status}")
        if (answer.length or 0) > self.most:
            raise InputError(f"it has {answer.length:,} bytes; at most {self.most:,} are taken")
        body = answer.read(self.most + 1)
        if len(body) > self.most:
            raise InputError(f"it has more than {self.most:,} bytes, which is all that is taken")
        if answer.length:
            raise ConnectionError("its server broke off")
        return body

    def _connected(self, place: _Place, until: float) -> socket.socket:
        """A connection to one of the addresses that a name has. Raises InputError where one of them is not public."""
        failure: OSError | None = None
        for address in self._checked(place):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                return socket.create_connection((address, place.port), min(left, _CONNECT_SECONDS))
            except OSError as error:
                failure = error
        raise failure or TimeoutError(f"it takes longer than {self.seconds:g} s")

    def _checked(self, place: _Place) -> Sequence[str]:
        try:
            found = self.resolve(place.host, place.port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise
            raise InputError(f"there is no host {place.host!r}") from None
        if place.host not in self.hosts and (shut := next((one for one in found if not is_public(one)), None)):
            raise InputError(
                f"{place.host} is at {shut}, which is no public address",
                hint="a host of your own is named in KNNEX_IMAGE_HOSTS",
            )
        return found[:_MOST_ADDRESSES]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also as what it carries of IPv4."""
    try:
        one: Address = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(one, ipaddress.IPv6Address) and (inner := _inside(one)):
        return is_public(str(inner))
    if one.version == 6 and one not in _PUBLIC_6:
        return False
    return one.is_global and not one.is_multicast and not any(one in network for network in _NOT_PUBLIC)


def _inside(one: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The address of IPv4 that an address of IPv6 stands for: mapped, compatible, by NAT64, 6to4 or ISATAP."""
    if one.ipv4_mapped:
        return one.ipv4_mapped
    whole = int(one)
    if whole >> 32 & 0xFDFFFFFF == 0x00005EFE:
        return ipaddress.IPv4Address(whole & 0xFFFFFFFF)
    for network, shift in _EMBEDDING.items():
        if one in ipaddress.ip_network(network):
            return ipaddress.IPv4Address(whole >> shift & 0xFFFFFFFF)
    return None


def _place(url: str) -> _Place:
    """What a URL says. Raises InputError for what two programs may read in two ways."""
    if any(char <= " " or char in "\\\x7f" for char in url):
        raise InputError("its URL has spaces, control characters or backslashes")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
        host = host if ":" in host else host.encode("idna").decode()
    except ValueError:
        raise InputError("its URL cannot be read") from None
    if parts.scheme not in ("http", "https"):
        raise InputError(f"its URL is of {parts.scheme or 'no scheme'!r}; http and https are fetched")
    if "@" in parts.netloc:
        raise InputError("its URL holds a name or a password", hint="give one that needs none")
    if not host or "%" in host or port == 0:
        raise InputError("its URL names no host")
    target = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    named = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    return _Place(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), named, target)


@contextmanager
def _ended(plain: socket.socket, until: float) -> Iterator[Callable[[ssl.SSLContext, str], socket.socket]]:
    """The connection is cut when time is over, also for who sends a byte now and then; gives what makes it TLS."""
    held = [plain]

    def cut() -> None:
        with suppress(OSError):
            socket.socket.shutdown(held[-1], socket.SHUT_RDWR)  # not that of TLS, which would wait for an answer

    def secured(context: ssl.SSLContext, host: str) -> socket.socket:
        held.append(context.wrap_socket(plain, server_hostname=host, do_handshake_on_connect=False))
        held[-1].do_handshake()  # type: ignore[attr-defined]
        return held[-1]

    timer = threading.Timer(max(0.0, until - time.monotonic()), cut)
    timer.daemon = True
    timer.start()
    try:
        yield secured
    finally:
        timer.cancel()
        held[-1].close()


def tls_context() -> ssl.SSLContext:
    """Whom to believe: who the system believes, and who KNNEX_CA_CERTS names. Raises SettingsError."""
    context = ssl.create_default_context()
    if settings().ca_certs:
        try:
            context.load_verify_locations(settings().ca_certs)
        except OSError as error:
            raise SettingsError(
                f"KNNEX_CA_CERTS: {settings().ca_certs} cannot be read: {error}", hint="give a file of PEM certificates"
            ) from None
    return context
