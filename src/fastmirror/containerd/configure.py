"""``fastmirror configure`` and ``cleanup``: certs.d once, or kept right while the mirror is what it should be."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmirror.containerd.certs import CertsDirectory, diff
from fastmirror.containerd.plan import Plan, Remark, Wanted, cleanup, configure
from fastmirror.containerd.probe import Answer, Kind, probe
from fastmirror.errors import CertsError, FastmirrorError

log = logging.getLogger(__name__)

WATCH_SECONDS: Final = 2.0
STUCK_PROBES: Final = 2  # in a row: one slow answer is no reason to go without the mirror


class NotFastmirror(FastmirrorError):
    """What answers at the mirror's address is not fastmirror: pulls would go to it and may never come back."""


def check_mirror(url: str) -> str:
    """The version of the fastmirror that answers. Raises NotFastmirror."""
    answer = probe(url)
    if answer.kind is Kind.OURS:
        return answer.detail
    raise NotFastmirror(f"nothing was changed: at {url} {answer}; start fastmirror there, or wait for it with --watch")


def write(certs: Path, wanted: Wanted) -> Plan:
    """Configure; what was done is in the plan. Raises CertsError."""
    directory = CertsDirectory(certs)
    with directory.locked():
        record = directory.record()
        plan = configure(directory.find(), record, wanted)
        directory.apply(plan, record)
    return plan


def give_back(certs: Path) -> Plan:
    """Clean up; a directory that is not there has nothing to give back. Raises CertsError."""
    if not certs.is_dir():
        return Plan([], {}, [])
    directory = CertsDirectory(certs)
    with directory.locked():
        record = directory.record()
        plan = cleanup(directory.find(), record)
        directory.apply(plan, record)
    return plan


def preview(certs: Path, wanted: Wanted | None) -> tuple[Plan, str]:
    """What :func:`write` (or without ``wanted`` :func:`give_back`) would do, and that as a diff. Changes nothing."""
    directory = CertsDirectory(certs)
    found, record = directory.find(), directory.record()
    plan = cleanup(found, record) if wanted is None else configure(found, record, wanted)
    return plan, diff(plan)


class Keeper:
    """Keeps certs.d right while it runs: our lines are in while fastmirror answers, and out while something answers
    that is not fastmirror, or takes connections and says nothing (containerd would wait for it for ever). A mirror that
    is merely not there stays in: that costs containerd a refused connection.
    """

    def __init__(self, certs: Path, wanted: Wanted, ask: Callable[[str], Answer] = probe) -> None:
        self._certs = certs
        self._wanted = wanted
        self._ask = ask
        self._bad = 0
        self._said: Kind | None = None
        self._remarks: list[Remark] = []

    def run(self, stop: threading.Event) -> None:
        """Look every two seconds until ``stop`` is set; what is in then stays in."""
        while not stop.is_set():
            self.look()
            stop.wait(WATCH_SECONDS)

    def look(self) -> None:
        """Ask once and do what follows. An error is logged, not raised: the next look may find it mended."""
        answer = self._ask(self._wanted.mirror)
        if answer.kind is not self._said:
            self._said = answer.kind
            level = logging.INFO if answer.kind is Kind.OURS else logging.WARNING
            log.log(level, "at %s %s", self._wanted.mirror, answer, extra={"event": "configure.mirror_probed"})
        self._bad = self._bad + 1 if answer.kind in (Kind.FOREIGN, Kind.SILENT) else 0
        try:
            if answer.kind is Kind.OURS:
                self._tell(write(self._certs, self._wanted))
            elif self._bad >= STUCK_PROBES:
                self._tell(give_back(self._certs))
        except CertsError as error:
            log.error("%s", error, extra={"event": "configure.write_failed"})

    def _tell(self, plan: Plan) -> None:
        for step in plan.steps:
            what = "written" if step.after is not None else "removed"
            log.info("%s was %s", step.path, what, extra={"event": f"configure.file_{what}"})
        if plan.remarks != self._remarks:
            self._remarks = plan.remarks
            for remark in plan.remarks:
                level = logging.WARNING if remark.kind == "problem" else logging.INFO
                log.log(level, "%s %s", remark.path, remark.text, extra={"event": "configure.remarked"})
