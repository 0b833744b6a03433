"""Requests to a mirror or registry, one connection each: redirects and anonymous tokens as registries want them.

Blocking; no proxy of the environment is used. Source: RFC 9110; distribution, "Token Authentication Specification".
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Self

from fastmirror import __version__
from fastmirror.errors import ConfigError

CONNECT_SECONDS: Final = 30.0  # containerd's
SILENCE_SECONDS: Final = 60.0  # containerd waits for ever for the next byte of a body
_PIECE: Final = 256 * 1024
_REDIRECTS: Final = 5
_MOVED: Final = (301, 302, 303, 307, 308)
_PARAMETER: Final = re.compile(r'(\w+)="([^"]*)"')


class Host(NamedTuple):
    """A place that is asked. ``str()`` is its URL."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """``host[:port]``, without the scheme's own port."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == {"http": 80, "https": 443}[self.scheme] else f"{name}:{self.port}"

    @classmethod
    def parse(cls, text: str, option: str) -> Host:
        """Read ``http[s]://HOST[:PORT]``. Raises ConfigError that names the option."""
        with suppress(ValueError):
            url = urllib.parse.urlsplit(text)
            plain = not (url.query or url.fragment or url.username or url.path.strip("/"))
            if url.scheme in ("http", "https") and url.hostname and plain and url.port != 0:
                return cls(url.scheme, url.hostname, url.port or {"http": 80, "https": 443}[url.scheme])
        raise ConfigError(f"{option}: expected http://HOST:PORT or https://HOST, not {text[:200]!r} (from --{option})")


class Answer:
    """An answer whose body has not been read. A context manager that ends its connection."""

    def __init__(self, client: Client, connection: http.client.HTTPConnection) -> None:
        self._client = client
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status
        self.headers = self._response.headers

    def read(self) -> bytes:
        """What has come, at most 256 KiB; empty at the end, early or not. Raises OSError: reset, or silent too long."""
        try:
            return self._response.read1(_PIECE)
        except http.client.IncompleteRead:
            return b""

    @property
    def length(self) -> int | None:
        """Content-Length, if it is there and a number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def close(self) -> None:
        """End the connection; idempotent."""
        self._response.close()
        self._client.forget(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Client:
    """Asks hosts, from any thread. :meth:`stop` ends what is under way, with OSError for whoever waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPConnection] = set()
        self._tokens: dict[Host, str] = {}
        self._stopped = False

    def ask(self, host: Host, method: str, target: str, fields: Mapping[str, str]) -> Answer:
        """Send a request, and follow where it is sent to. Raises OSError or HTTPException. The caller closes it."""
        token = self._tokens.get(host)
        answer = self._follow(host, method, target, self._with(fields, token))
        if answer.status == 401 and (challenge := _challenge(answer.headers.get("WWW-Authenticate", ""))):
            answer.close()
            token = self._tokens[host] = self._token(challenge)
            answer = self._follow(host, method, target, self._with(fields, token))
        return answer

    def stop(self) -> None:
        """End all connections; later requests fail at once."""
        with self._lock:
            self._stopped = True
            for connection in self._open:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stopped

    def forget(self, connection: http.client.HTTPConnection) -> None:
        """End a connection; idempotent."""
        with self._lock:
            self._open.discard(connection)
        connection.close()

    @staticmethod
    def _with(fields: Mapping[str, str], token: str | None) -> dict[str, str]:
        ours = {"User-Agent": f"fastmirror/{__version__}", "Accept": "*/*", **fields}
        return ours | ({"Authorization": f"Bearer {token}"} if token else {})

    def _follow(self, host: Host, method: str, target: str, fields: dict[str, str]) -> Answer:
        for _ in range(_REDIRECTS):
            answer = self._exchange(host, method, target, fields)
            where = answer.headers.get("Location", "")
            if answer.status not in _MOVED or not where:
                return answer
            answer.close()
            url = urllib.parse.urlsplit(urllib.parse.urljoin(f"{host}{target}", where))
            try:
                there = Host.parse(f"{url.scheme}://{url.netloc.rpartition('@')[2]}", "origin")
            except ConfigError:
                raise http.client.HTTPException("a redirect to somewhere that is no http URL") from None
            if there != host:
                fields = {name: value for name, value in fields.items() if name != "Authorization"}
            host, target = there, (url.path or "/") + (f"?{url.query}" if url.query else "")
        raise http.client.HTTPException(f"more than {_REDIRECTS} redirects")

    def _exchange(self, host: Host, method: str, target: str, fields: Mapping[str, str]) -> Answer:
        kind = http.client.HTTPSConnection if host.scheme == "https" else http.client.HTTPConnection
        connection = kind(host.host, host.port, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
            assert connection.sock is not None
            connection.sock.settimeout(SILENCE_SECONDS)
            with self._lock:
                if self._stopped:
                    raise ConnectionAbortedError("the pull is over")
                self._open.add(connection)
            connection.request(method, target, headers=dict(fields))
            return Answer(self, connection)
        except BaseException:
            self.forget(connection)
            raise

    def _token(self, challenge: dict[str, str]) -> str:
        """A token for nobody in particular. Raises OSError or HTTPException."""
        url = urllib.parse.urlsplit(challenge["realm"])
        asked = [(name, challenge[name]) for name in ("service", "scope") if name in challenge]
        query = urllib.parse.urlencode(asked)
        try:
            host = Host.parse(f"{url.scheme}://{url.netloc}", "origin")
        except ConfigError:
            raise http.client.HTTPException("a token is asked for from somewhere that is no http URL") from None
        target = f"{url.path or '/'}?{'&'.join(filter(None, (url.query, query)))}"
        with self._follow(host, "GET", target, self._with({}, None)) as answer:
            content = b""
            while len(content) < _PIECE and (piece := answer.read()):
                content += piece
        try:
            told = json.loads(content)
            return str(told.get("token") or told["access_token"])
        except (ValueError, LookupError, AttributeError):
            raise http.client.HTTPException(f"{host} gives no token to everybody (status {answer.status})") from None


def _challenge(text: str) -> dict[str, str]:
    """The parameters of a Bearer challenge; empty for any other."""
    scheme, _, rest = text.partition(" ")
    found = dict(_PARAMETER.findall(rest)) if scheme.lower() == "bearer" else {}
    return found if "realm" in found else {}
