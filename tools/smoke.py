"""Start the installed ``fastmirror``, ask it for signs of life, stop it: ``smoke.py path/to/fastmirror``.

Only the standard library is used, so that it runs in a virtual environment that holds nothing but fastmirror.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def ask(port: int, path: str, seconds: float = 20.0) -> int:
    """The status of a GET, asked again while nobody listens."""
    deadline = time.monotonic() + seconds
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().status
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.05)


def main(command: str) -> int:
    command = os.path.abspath(command)
    subprocess.run([command, "version"], check=True)
    registry, peer, admin = free_port(), free_port(), free_port()
    wanted = {(admin, "/livez"): 200, (registry, "/v2/"): 200, (peer, "/v2/"): 200, (admin, "/metrics"): 200}
    wanted[registry, "/v2/nobody/has/manifests/this"] = 404
    with tempfile.TemporaryDirectory() as directory:
        arguments = [f"--store=oci:{directory}/store"]
        arguments += [
            f"--{name}-addr=127.0.0.1:{port}"
            for name, port in (("registry", registry), ("peer", peer), ("admin", admin))
        ]
        with subprocess.Popen([command, "serve", *arguments], cwd=directory) as process:
            try:
                got = {(port, path): ask(port, path) for port, path in wanted}
            finally:
                process.send_signal(signal.SIGTERM)
    for (_, path), status in got.items():
        print(f"GET {path}: {status}")
    print(f"SIGTERM: exit {process.returncode}")
    return 0 if got == wanted and process.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
