"""Runs cases: the ordinary ones several at a time, those that measure one by one, the scenarios beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tests.catalogue.cases import Case
from tests.catalogue.exchange import Outcome, exchange
from tests.catalogue.fixture import Fixture
from tests.catalogue.judge import judge, same_headers
from tests.catalogue.scenarios import SCENARIOS, Server, at_once
from tests.kit import proc
from tests.kit.waiting import NOISE

_JOBS = 8
_TRIES = 3  # of a case that only its time limit fails: another process may have had the core


@dataclass
class Verdict:
    """What is wrong with the server's answer to one case; nothing, if ``problems`` is empty."""

    case: Case
    problems: list[str]


class Runner:
    """Runs cases against one server. ``run`` gives a verdict for every case that it is given."""

    def __init__(self, server: Server, fixture: Fixture, *, default_registry: bool = False) -> None:
        self._server = server
        self._fixture = fixture
        self._default_registry = default_registry

    def run(self, cases: Iterable[Case]) -> list[Verdict]:
        """All cases, in their order."""
        todo = list(cases)
        scenarios = [case for case in todo if case.scenario]
        quiet = list(at_once(scenarios))
        with ThreadPoolExecutor(max(len(quiet), 1)) as beside:
            waiting = {case.id: beside.submit(self.scenario, case) for case in quiet}
            verdicts = self.exchanges([case for case in todo if not case.scenario])
            verdicts.update((name, self._await(future)) for name, future in waiting.items())
        for case in scenarios:  # these need the machine, or all places of the server, for themselves
            if case.id not in verdicts:
                verdicts[case.id] = self.scenario(case)
        return [verdicts[case.id] for case in todo]

    def scenario(self, case: Case) -> Verdict:
        """One case that is more than an exchange."""
        return Verdict(case, SCENARIOS[case.scenario](case, self._server, self._fixture))

    def exchanges(self, cases: list[Case]) -> dict[str, Verdict]:
        """Cases of one connection each; verdicts by id."""
        outcomes: dict[str, Outcome] = {}
        together = [case for case in cases if not case.alone]
        with ThreadPoolExecutor(_JOBS) as pool:
            for case, outcome in zip(together, pool.map(self._exchange, together), strict=True):
                outcomes[case.id] = outcome
        for case in cases:
            if case.alone:
                outcomes[case.id] = self._measured(case)
        return {case.id: Verdict(case, self._judge(case, outcomes)) for case in cases}

    def _judge(self, case: Case, outcomes: dict[str, Outcome]) -> list[str]:
        outcome = outcomes[case.id]
        problems = judge(case, outcome, self._fixture, default_registry=self._default_registry, slack=NOISE)
        other = outcomes.get(case.same_headers_as)
        if other is not None and outcome.replies and other.replies:
            problems += same_headers(outcome.replies[0], other.replies[0])
        return problems

    def _exchange(self, case: Case) -> Outcome:
        return exchange(case, self._server.address, case.payload(self._fixture))

    def _measured(self, case: Case) -> Outcome:
        """Alone, with the peak of the server's memory; again if it was too slow, in case that was not its fault."""
        payload = case.payload(self._fixture)  # before the measurement: it may be large itself
        pid = self._server.pid
        for _ in range(_TRIES - 1):
            outcome = self._measure(case, payload, pid)
            if not case.max_ms or outcome.first_byte_ms <= case.max_ms * NOISE:
                return outcome
        return self._measure(case, payload, pid)

    def _measure(self, case: Case, payload: bytes, pid: int | None) -> Outcome:
        if pid is None:
            outcome = exchange(case, self._server.address, payload)
            if case.max_rss_mib:
                outcome.problems.append("memory cannot be measured: the server's process was not found here")
            return outcome
        proc.reset_peak(pid)
        before = proc.rss_kib(pid)
        outcome = exchange(case, self._server.address, payload)
        outcome.rss_growth_kib = proc.peak_kib(pid) - before
        return outcome

    @staticmethod
    def _await(future: Future[Verdict]) -> Verdict:
        return future.result()


def report(verdicts: list[Verdict], write: Callable[[str], object], *, verbose: bool = False) -> bool:
    """Write what failed and a line of counts; whether nothing failed."""
    failed = [verdict for verdict in verdicts if verdict.problems]
    for verdict in verdicts:
        if verdict.problems:
            write(f"FAIL {verdict.case.id}: {'; '.join(verdict.problems)}\n")
        elif verbose:
            write(f"ok   {verdict.case.id}\n")
    write(f"{len(verdicts) - len(failed)} passed, {len(failed)} failed\n")
    return not failed
