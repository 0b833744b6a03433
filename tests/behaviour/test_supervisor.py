"""``serve --supervise``: whatever happens to the serving process, there is one that answers soon after."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.cluster import free_port
from tests.kit.process import Log, children, destroy, environment
from tests.kit.waiting import eventually
from tests.kit.wire import NoAnswer, ask


class Supervised:
    """A supervised fastmirror at a fixed port."""

    def __init__(self, store: Path, *flags: str) -> None:
        self.port = free_port("127.0.0.1")
        line = [sys.executable, "-m", "fastmirror", "serve", "--supervise", "--store", f"oci:{store}"]
        line += [
            "--registry-addr",
            f"127.0.0.1:{self.port}",
            "--peer-addr",
            "127.0.0.1:0",
            "--admin-addr",
            "127.0.0.1:0",
        ]
        self.process = subprocess.Popen(
            [*line, *flags],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        assert self.process.stderr is not None
        self.log = Log(self.process.stderr)

    @property
    def child(self) -> int | None:
        return next(iter(children(self.process.pid)), None)

    def answers(self) -> bool:
        with contextlib.suppress(OSError, NoAnswer):
            return ask(("127.0.0.1", self.port), "GET", "/v2/").status == 200
        return False

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(30)
        self.log.join()
        return code


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    running = Supervised(tmp_path / "store")
    try:
        eventually(running.answers, "it answers", 20)
        yield running
    finally:
        destroy(running.process)
        running.log.join()
        assert running.process.stderr is not None
        running.process.stderr.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_process_that_dies_is_replaced(supervised: Supervised, how: signal.Signals) -> None:
    before = supervised.child
    assert before is not None
    os.kill(before, how)
    eventually(lambda: supervised.child not in (None, before) and supervised.answers(), "another one answers", 20)
    assert supervised.log.wait("supervisor.process_died")["code"] == -how
    assert supervised.end() == 0


def test_a_process_that_is_stuck_is_killed_and_replaced(supervised: Supervised) -> None:
    before = supervised.child
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    eventually(lambda: supervised.child not in (None, before) and supervised.answers(), "another one answers", 30)
    supervised.log.wait("supervisor.process_stuck")
    assert supervised.end() == 0


def test_sigterm_ends_both_with_the_exit_code_of_the_process(supervised: Supervised) -> None:
    child = supervised.child
    assert supervised.end() == 0
    assert not Path(f"/proc/{child}").exists()
    assert supervised.log.wait("daemon.ended")


@pytest.mark.parametrize("stuck", [False, True])
def test_a_supervisor_that_is_killed_takes_the_process_with_it(supervised: Supervised, stuck: bool) -> None:
    child = supervised.child
    assert child is not None
    if stuck:
        os.kill(child, signal.SIGSTOP)
    supervised.process.kill()
    supervised.process.wait()
    eventually(lambda: not supervised.answers(), "nothing answers", 20)
    eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child), "the process is gone", 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_both_in_order(supervised: Supervised, number: signal.Signals) -> None:
    os.killpg(supervised.process.pid, number)
    supervised.process.send_signal(number)  # timeout(1) sends two: the serving process sees up to four
    assert supervised.process.wait(30) == 0
    assert supervised.log.wait("daemon.ended")


def _is_zombie(pid: int | None) -> bool:
    """An orphan that has ended and waits for the tests' process, which adopted it, to look."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


def test_a_process_that_cannot_begin_is_not_started_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    running = Supervised(tmp_path / "file")
    assert running.process.wait(20) == 1
    running.log.join()
    assert "is not a directory" in running.log.lines[-1]
    assert running.process.stderr is not None
    running.process.stderr.close()
