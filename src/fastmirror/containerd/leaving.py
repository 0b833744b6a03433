"""``fastmirror cleanup`` over many nodes: each gives its files back and tells so, and one waits for all of them.

On a node: nothing is given back while the mirror still answers, since whoever keeps hosts.toml right would write it
again; then the files are, and an HTTP listener says what became of it. Elsewhere: every address of a name is asked
until all have said that they are done.
"""

from __future__ import annotations

import http.client
import http.server
import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from fastmirror.config.check import Address
from fastmirror.containerd.configure import give_back
from fastmirror.containerd.probe import Answer, Kind, probe
from fastmirror.errors import CertsError, ConfigError, FastmirrorError

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
GONE_LOOKS: Final = 2  # in a row: a mirror between two starts is not gone
STEADY_ROUNDS: Final = 3  # in a row with the same nodes: new pods may still get addresses
ASK_SECONDS: Final = 3.0
_ASKED_AT_ONCE: Final = 32


class NotAllDone(FastmirrorError):
    """Some nodes have not given their files back in time; the text names them. Caught in ``cli.main``."""


class State:
    """How far a node is. Written by one thread, read by those that answer; each value is replaced whole."""

    def __init__(self) -> None:
        self.done = False
        self.why = "not looked yet"
        self.remarks: tuple[str, ...] = ()

    def told(self) -> bytes:
        """What the listener answers."""
        node = os.environ.get("FASTMIRROR_NODE_NAME") or socket.gethostname()
        said = {"node": node, "done": self.done, "why": self.why, "remarks": self.remarks}
        return json.dumps(said).encode() + b"\n"


def leave(certs: Path, mirror: str, state: State, stop: threading.Event, ask: Callable[[str], Answer] = probe) -> None:
    """Wait until no fastmirror answers at ``mirror``, then give the files back; tries again what could not be done.

    Returns when that is done, or ``stop`` is set.
    """
    gone = 0
    while not stop.is_set():
        gone = gone + 1 if ask(mirror).kind is not Kind.OURS else 0
        if gone < GONE_LOOKS:
            state.why = f"fastmirror still answers at {mirror}: its pod must end first"
        elif _give_back(certs, state):
            return
        stop.wait(LOOK_SECONDS)


def _give_back(certs: Path, state: State) -> bool:
    try:
        plan = give_back(certs)
    except (CertsError, OSError) as error:
        if state.why != str(error):
            log.error("%s", error, extra={"event": "cleanup.failed"})
        state.why = str(error)
        return False
    for step in plan.steps:
        what = "written" if step.after is not None else "removed"
        log.info("%s was %s", step.path, what, extra={"event": f"cleanup.file_{what}"})
    state.remarks = tuple(f"{certs / remark.path} {remark.text}" for remark in plan.remarks)
    state.why, state.done = "", True
    log.info("the files are as they were", extra={"event": "cleanup.done", "remarks": state.remarks})
    return True


def stay(certs: Path, mirror: str, listener: Address, stop: threading.Event) -> None:
    """:func:`leave`, and answer GET at ``listener`` until ``stop`` is set: 200 once all is given back, else 503.

    Raises ConfigError if the listener's address cannot be had. What was given back stays so.
    """
    state = State()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.told()
            self.send_response(200 if state.done else 503)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing of a request."""

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET

    try:
        server = Server((listener.host, listener.port), Handler)
    except OSError as error:
        raise ConfigError(f"tell: cannot listen on {listener}: {error.strerror} (from --tell)") from error
    thread = threading.Thread(target=server.serve_forever, name="tell", kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        leave(certs, mirror, state, stop)
        stop.wait()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Told(NamedTuple):
    """What one address said: its node, whether it is done, and if not why, or what was left to be seen to."""

    node: str
    done: bool
    why: str
    remarks: tuple[str, ...] = ()


def ask_node(host: str, port: int) -> Told:
    """Ask one node. Never raises for what the other side does."""
    connection = http.client.HTTPConnection(host, port, timeout=ASK_SECONDS)
    try:
        connection.request("GET", "/readyz")
        said: dict[str, Any] = json.loads(connection.getresponse().read(1 << 20))
        remarks = tuple(map(str, said["remarks"]))
        return Told(str(said["node"]), said["done"] is True, str(said["why"]), remarks)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        return Told(host, False, f"does not answer: {error}")
    finally:
        connection.close()


def addresses(name: str) -> tuple[str, ...]:
    """What a name stands for now; nothing if it is not known (yet)."""
    try:
        return tuple(sorted({str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}))
    except OSError:
        return ()


def await_all(
    place: Address,
    timeout: float,
    stop: threading.Event,
    resolve: Callable[[str], tuple[str, ...]] = addresses,
    ask: Callable[[str, int], Told] = ask_node,
) -> list[Told]:
    """Wait until every address of ``place`` is done, in :data:`STEADY_ROUNDS` rounds; what they said.

    Raises NotAllDone after ``timeout`` seconds, or when ``stop`` is set.
    """
    end = monotonic() + timeout
    steady, told = 0, list[Told]()
    before: tuple[str, ...] = ()
    while True:
        found = resolve(place.host)
        if found:
            with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                told = list(pool.map(lambda host: ask(host, place.port), found))
        good = bool(found) and all(one.done for one in told)
        steady = (steady + 1 if found == before else 1) if good else 0
        before = found
        if steady == STEADY_ROUNDS:
            return told
        if stop.is_set() or monotonic() > end:
            late = [f"{one.node} ({one.why})" for one in told if not one.done]
            what = "have not given hosts.toml back: " + ", ".join(late) if late else f"{place.host} has no addresses"
            raise NotAllDone(f"{len(told) - len(late)} nodes are done; {what}")
        stop.wait(LOOK_SECONDS)
