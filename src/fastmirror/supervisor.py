"""``fastmirror serve --supervise``: a small parent that starts the serving process again when it dies or is stuck.

A process that is stuck with its sockets open is the worst that a mirror can do: containerd before 2.3 waits for it for
ever. Killed, its clients see the connection end and go on elsewhere. Under systemd (WatchdogSec=, Restart=) this
parent is not needed; kubelet's probes take longer than a pull may wait.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

log = logging.getLogger(__name__)

STUCK_SECONDS: Final = 5.0
START_SECONDS: Final = 60.0  # a large store is read before the first word
_DELAYS: Final = (0.0, 0.0, 1.0, 5.0, 15.0)
_STEADY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.2
_TOLD_EARLY: Final = (-signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGINT)
_PR_SET_PDEATHSIG: Final = 1


class Supervisor:
    """Runs one command until it ends by itself with an exit code, or SIGTERM or SIGINT ends it.

    A command that dies by a signal, or ends after it had begun to serve without being told to, is started again; one
    that never began to serve has something to say about its settings, and its exit code is ours.
    """

    def __init__(self, command: Sequence[str], stuck_seconds: float = STUCK_SECONDS) -> None:
        self._command = list(command)
        self._stuck_seconds = stuck_seconds
        self._stopping = False
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """The exit code of the last process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        deaths = 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as ears:
            name = f"fastmirror-{secrets.token_hex(8)}"
            ears.bind("\0" + name)  # abstract: nothing to clean up; unix(7)
            while True:
                began = time.monotonic()
                code, served = self._run_one(ears, "@" + name)
                if self._stopping and not served and code in _TOLD_EARLY:
                    return 0  # it was told to end before it had come to listen for that
                if self._stopping or (code >= 0 and not served):
                    return code if code >= 0 else 128 - code
                deaths = 0 if time.monotonic() - began > _STEADY_SECONDS else deaths + 1
                delay = _DELAYS[min(deaths, len(_DELAYS) - 1)]
                details = {"event": "supervisor.process_died", "code": code, "restart_seconds": delay}
                log.error("the serving process died: it is started again", extra=details)
                self._wait(delay)

    def _pass_on(self, number: int, _: object) -> None:
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)

    def _run_one(self, ears: socket.socket, address: str) -> tuple[int, bool]:
        """Start the process and listen to it; its exit code, and whether it had begun to serve."""
        environment = {**os.environ, "NOTIFY_SOCKET": address}
        environment["WATCHDOG_USEC"] = str(int(self._stuck_seconds * 1e6))
        self._child = subprocess.Popen(
            self._command,
            env=environment,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - safe without threads, and there are none
        )
        served, heard = False, time.monotonic()
        if self._stopping:  # the signal came while it was started
            self._child.terminate()
        while self._child.poll() is None:
            readable, _, _ = select.select([ears], [], [], _POLL_SECONDS)
            if readable:
                state = ears.recv(4096)
                heard = time.monotonic()
                served = served or state.startswith(b"READY=1")
            elif not self._stopping and time.monotonic() - heard > (self._stuck_seconds if served else START_SECONDS):
                log.error("the serving process is stuck: it is killed", extra={"event": "supervisor.process_stuck"})
                self._child.kill()
                heard = time.monotonic()
        while select.select([ears], [], [], 0)[0]:
            served = ears.recv(4096).startswith(b"READY=1") or served
        return self._child.wait(), served


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # prctl(2); a stuck one heeds nothing less


def supervise(arguments: Sequence[str]) -> int:
    """Run ``fastmirror`` with these arguments in a process of its own, and keep it running; its exit code."""
    return Supervisor([sys.executable, "-P", "-m", "fastmirror", *arguments]).run()


def remind(kinds: Iterable[str], environ: Mapping[str, str]) -> None:
    """Log a warning if containerd's content is to be served and nobody would end this process if it got stuck."""
    if "WATCHDOG_USEC" in environ or not {"containerd", "content"}.intersection(kinds):
        return
    log.warning(
        "nobody ends this process if it gets stuck, and containerd before 2.3 would wait for it for ever: "
        "serve with --supervise, or under systemd with WatchdogSec=5",
        extra={"event": "daemon.unsupervised"},
    )
