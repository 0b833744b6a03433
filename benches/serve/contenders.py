"""The servers that are compared, each in its own process, bound to one CPU."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benches.serve import machine
from benches.serve.content import MANIFEST_TYPE, Content
from benches.serve.loadgen import Target

HOST = "127.0.0.1"
START_SECONDS = 20.0
STOP_SECONDS = 10.0
FASTMIRROR = (sys.executable, "-m", "fastmirror")

NGINX_CONF = """\
daemon off;
{user}
worker_processes 1;
pid {work}/nginx.pid;
error_log {work}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush {nopush};
    aio {aio};
    keepalive_timeout 60s;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=60s;
    default_type {default_type};
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{ listen {host}:{port}; location / {{ root {root}; }} }}
}}
"""


class StartFailed(Exception):
    """A contender did not come up; the text has the end of what it said."""


@contextmanager
def running(line: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``line`` with its stderr in ``log``; at the end SIGTERM, then SIGKILL after a while."""
    with log.open("wb") as errors:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    """Wait until ``ready()``. Raises StartFailed when the process ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StartFailed(f"{log.stem} did not start: {log.read_text()[-600:].strip() or 'it said nothing'}")
        time.sleep(0.02)


def answers(port: int) -> bool:
    """Whether something on this machine accepts connections on a port."""
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody had just now."""
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


def nginx_version() -> str | None:
    """nginx's version, or None if it is not installed."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        return None
    done = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False)
    return done.stderr.strip().rpartition("/")[2]


@contextmanager
def nginx(content: Content, work: Path, cpu: int, *, nopush: bool, aio: bool = False) -> Iterator[Target]:
    """nginx with one worker, sendfile, an open file cache and no access log; ``aio`` adds ``aio threads``."""
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    work = work / f"nginx-nopush-{'on' if nopush else 'off'}{'-aio' if aio else ''}"
    work.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = NGINX_CONF.format(
        user="user root;" if os.geteuid() == 0 else "",
        work=work,
        nopush="on" if nopush else "off",
        aio="threads" if aio else "off",
        default_type=MANIFEST_TYPE,
        host=HOST,
        port=port,
        root=content.root,
    )
    (work / "nginx.conf").write_text(config)
    line = machine.pinned([binary, "-p", str(work), "-c", str(work / "nginx.conf")], cpu)
    log = work / "nginx.log"
    with running(line, log) as process:
        # the master listens before it has a worker
        until(process, log, lambda: answers(port) and len(machine.process_tree(process.pid)) > 1)
        yield Target(HOST, port, machine.process_tree(process.pid), log.stem)


def _bound(log: Path, listener: str) -> int | None:
    """The port that fastmirror says it serves ``listener`` on, once it says so."""
    for line in log.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("event") == "daemon.serving":
            return int(str(entry[listener]).rpartition(":")[2])
    return None


@contextmanager
def fastmirror(
    store: Path, work: Path, cpu: int, *, peers: tuple[str, ...] = (), listener: str = "registry"
) -> Iterator[Target]:
    """``fastmirror serve`` with an OCI layout; the target is its ``registry`` or its ``peer`` listener."""
    work.mkdir(parents=True, exist_ok=True)
    line = [*FASTMIRROR, "serve", "--store", f"oci:{store}"]
    for name in ("registry", "peer", "admin"):
        line += [f"--{name}-addr", f"{HOST}:0"]
    if peers:
        line += ["--peers", ",".join(peers)]
    log = work / "fastmirror.log"
    with running(machine.pinned(line, cpu), log) as process:
        until(process, log, lambda: _bound(log, listener) is not None)
        port = _bound(log, listener)
        assert port is not None
        yield Target(HOST, port, machine.process_tree(process.pid), log.stem)
