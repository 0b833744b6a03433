"""The HTTP catalogue against a real server: every case, none left out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.catalogue.cases import Case, load
from tests.catalogue.exchange import exchange
from tests.catalogue.fixture import fixture
from tests.catalogue.runner import Runner, Verdict
from tests.catalogue.scenarios import Server, at_once
from tests.kit.process import Node, start
from tests.kit.strace import traced
from tests.kit.wire import End

CASES = load()
ORDINARY = [case for case in CASES if not case.scenario]
SCENARIOS = [case for case in CASES if case.scenario and case.scenario != "idle"]
IDLE = [case for case in CASES if case.scenario == "idle"]


@pytest.fixture(scope="module")
def node(catalogue_store: Path) -> Iterator[Node]:
    with start(catalogue_store, flags={"log_level": "debug"}) as started:
        yield started


@pytest.fixture(scope="module")
def runner(node: Node) -> Runner:
    return Runner(Server(node.registry, node.pid, 10.0, 75.0), fixture())


@pytest.fixture(scope="module")
def ordinary(runner: Runner) -> dict[str, Verdict]:
    return runner.exchanges(ORDINARY)


@pytest.fixture(scope="module")
def waiting(runner: Runner) -> dict[str, Verdict]:
    """The scenarios that can go on at the same time."""
    cases = list(at_once(SCENARIOS))
    with ThreadPoolExecutor(len(cases)) as pool:
        return {verdict.case.id: verdict for verdict in pool.map(runner.scenario, cases)}


def test_the_catalogue_is_whole() -> None:
    assert len(CASES) == 257
    assert len(ORDINARY) + len(SCENARIOS) + len(IDLE) == 257
    assert len(SCENARIOS) + len(IDLE) == 7


@pytest.mark.parametrize("case", ORDINARY, ids=lambda case: case.id)
def test_a_request_is_answered_as_the_catalogue_says(case: Case, ordinary: dict[str, Verdict]) -> None:
    assert ordinary[case.id].problems == []


@pytest.mark.parametrize("case", SCENARIOS, ids=lambda case: case.id)
def test_a_scenario_ends_as_the_catalogue_says(case: Case, runner: Runner, waiting: dict[str, Verdict]) -> None:
    verdict = waiting.get(case.id) or runner.scenario(case)
    assert verdict.problems == []


def test_the_peer_listener_takes_no_more_than_the_other(node: Node) -> None:
    runner = Runner(Server(node.peer, node.pid, 10.0, 75.0), fixture())
    verdicts = runner.exchanges([case for case in ORDINARY if not case.alone])
    assert {name: verdict.problems for name, verdict in verdicts.items() if verdict.problems} == {}


def test_the_admin_listener_answers_or_refuses_everything_and_never_resets(node: Node) -> None:
    groups = ("03-methods", "08-target", "09-framing", "10-headers", "11-nonhttp")
    cases = [case for case in ORDINARY if not case.alone and case.group in groups]
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda case: exchange(case, node.admin, case.payload(fixture())), cases))
    for case, outcome in zip(cases, outcomes, strict=True):
        assert outcome.end is not End.RST, case.id
        assert outcome.replies or not outcome.late, case.id
        assert outcome.status in (0, 200, 400, 404, 405, 414, 431, 505), case.id


def test_nothing_secret_or_unreadable_is_logged(node: Node, ordinary: dict[str, Verdict]) -> None:
    assert ordinary
    text = "\n".join(node.log.lines)
    for case in CASES:
        for secret in case.unlogged:
            assert secret not in text, case.id
    assert node.log.problems() == []


@pytest.mark.needs("strace", "root")
@pytest.mark.needs("strace", "root")
def test_no_request_reaches_outside_the_store(catalogue_store: Path, tmp_path: Path) -> None:
    """No connection to what ``ns`` names, no file but the store's, nothing written."""
    before = sorted(path for path in catalogue_store.rglob("*"))
    names = [case for case in ORDINARY if case.group in ("04-names", "05-refs", "06-ns")]
    trace = tmp_path / "trace"
    with start(catalogue_store) as node:
        runner = Runner(Server(node.registry, node.pid, 10.0, 75.0), fixture())
        assert runner.exchanges(names[:1])  # what is opened once, at the first request, is no request's doing
        with traced(node.pid, trace, "-e", "trace=connect,open,openat,openat2,creat,mkdir,mkdirat,rename"):
            verdicts = runner.exchanges(names)
    calls = trace.read_text().splitlines()
    assert len(verdicts) == len(names) > 60
    assert any("openat" in call for call in calls), "nothing was traced"
    for call in calls:
        assert "connect(" not in call, call
        assert "O_CREAT" not in call, call
        if "open" in call and '"/' in call:
            assert str(catalogue_store) in call, call
        assert "/etc/" not in call, call
        assert ".." not in call.partition('"')[2].partition('"')[0], call
    assert sorted(path for path in catalogue_store.rglob("*")) == before


@pytest.mark.timeout(150)
def test_a_connection_without_requests_is_ended_after_the_idle_timeout(
    idle_case: tuple[subprocess.Popen[str], Node],
) -> None:
    case, _ = idle_case
    output, _ = case.communicate(timeout=120)
    assert case.returncode == 0, output
    assert "1 passed, 0 failed" in output
