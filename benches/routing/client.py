"""``python -m benches.routing.client HOST PORT TARGET``: HEAD requests one after another on one connection.

For each line on stdin it prints a line: a JSON list of the microseconds that each request since the last one took.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time

PAUSE = 0.0005


def main() -> None:
    host, port, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    connection = http.client.HTTPConnection(host, port, timeout=10)
    taken: list[float] = []
    ended = threading.Event()

    def report() -> None:
        for _ in sys.stdin:
            print(json.dumps(taken), flush=True)
            taken.clear()
        ended.set()

    threading.Thread(target=report, daemon=True).start()
    while not ended.is_set():
        began = time.perf_counter_ns()
        connection.request("HEAD", target)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"status {answer.status}")
        taken.append((time.perf_counter_ns() - began) / 1000)
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
