"""``python -m tests.catalogue HOST PORT``: run the whole catalogue; exit code 1 if anything failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.catalogue.cases import load
from tests.catalogue.fixture import fixture, write
from tests.catalogue.runner import Runner, report
from tests.catalogue.scenarios import Server
from tests.kit.proc import listener_pid


def main() -> int:
    """Read the command line, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.catalogue", description="Run the HTTP catalogue.")
    parser.add_argument("host", nargs="?", help="IPv4 address of the registry listener")
    parser.add_argument("port", nargs="?", type=int)
    parser.add_argument("--make-fixture", metavar="DIR", type=Path, help="write what a server must have, and end")
    parser.add_argument("--pid", type=int, help="the server's process; found by its port if not given")
    parser.add_argument("--header-timeout", type=float, default=10.0, help="what the server is set to (seconds)")
    parser.add_argument("--idle-timeout", type=float, default=75.0, help="what the server is set to (seconds)")
    parser.add_argument("--default-registry", action="store_true", help="the server has a default registry")
    parser.add_argument("--only", default="", metavar="PREFIX", help="cases whose id begins so")
    parser.add_argument("-v", "--verbose", action="store_true", help="name what passed, too")
    options = parser.parse_args()
    if options.make_fixture is not None:
        write(options.make_fixture)
        return 0
    if options.host is None or options.port is None:
        parser.error("HOST and PORT are needed")
    pid = options.pid or listener_pid(options.host, options.port)
    server = Server((options.host, options.port), pid, options.header_timeout, options.idle_timeout)
    cases = [case for case in load() if case.id.startswith(options.only)]
    runner = Runner(server, fixture(), default_registry=options.default_registry)
    return 0 if report(runner.run(cases), sys.stdout.write, verbose=options.verbose) else 1


if __name__ == "__main__":
    sys.exit(main())
