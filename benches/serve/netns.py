"""A private network namespace with one known congestion control, where this user may have one.

BBR paces: on a loopback interface it cuts sendfile into small segments and costs two to three times the CPU per byte.
Which one a machine has is no property of the servers, so both are measured with cubic, Linux's own default.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

INSIDE = "BENCH_NETNS"
CONGESTION_CONTROL = "cubic"
ROUTES = ("127.0.0.0/8", "127.0.0.1")


def enter(module: str, arguments: list[str]) -> None:
    """Run ``python -m module arguments`` again inside such a namespace; return only where that cannot be."""
    if os.environ.get(INSIDE):
        _set_up()
        return
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if unshare is None or ip is None:
        return
    flags = "-n" if os.geteuid() == 0 else "-rn"
    if subprocess.run([unshare, flags, "true"], capture_output=True, check=False).returncode != 0:
        return
    environment = {**os.environ, INSIDE: "1"}
    os.execve(unshare, [unshare, flags, sys.executable, "-m", module, *arguments], environment)


def _set_up() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for route in ROUTES:
        line = f"ip route change local {route} dev lo proto kernel scope host src 127.0.0.1 table local"
        subprocess.run([*line.split(), "congctl", CONGESTION_CONTROL], capture_output=True, check=False)


def congestion_control() -> str:
    """What an accepted socket on 127.0.0.1 really has."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        name = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()
