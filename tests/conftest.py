"""What holds for every test: it runs on uvloop, leaves nothing behind, and is not skipped where CI is set."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
from collections.abc import Callable, Generator
from typing import Any

import hypothesis
import pytest
import uvloop

from tests.kit.leftovers import Holdings, adopt_orphans, left_since

_CI = os.environ.get("CI", "") not in ("", "0", "false")
_MAY_SKIP_IN_CI: frozenset[str] = frozenset()
"""Node ids that CI lets be skipped, each with its reason beside it."""

# On a noisy machine no example has a deadline, nor may making them; CI tries the same examples each time.
hypothesis.settings.register_profile(
    "fastmirror", deadline=None, derandomize=_CI, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("fastmirror")

_BEFORE = pytest.StashKey[Holdings]()
_FAILED = pytest.StashKey[bool]()

_complaints: list[str] = []
"""What loops said through their exception handler since the last look."""

_wide = Holdings()
"""What fixtures of classes, modules and the session hold: more than one test may see it."""


def _new_loop() -> asyncio.AbstractEventLoop:
    def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        _complaints.append(f"{context.get('message')}: {context.get('exception')!r}")
        loop.default_exception_handler(context)
        if isinstance(context.get("exception"), pytest.fail.Exception):
            # the signal of pytest-timeout lands in a callback of the loop, which would go on
            for task in asyncio.all_tasks(loop):
                task.cancel("the test took too long")

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    loop.set_exception_handler(complain)
    return loop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": _new_loop}


def pytest_sessionstart() -> None:
    """Let libuv open what it keeps until the end: its signal pipe and its threads for name lookups."""
    adopt_orphans()
    loop = uvloop.new_event_loop()
    loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 1))
    loop.close()


class _FixtureWatch:
    """A plugin of its own: hooks of a conftest file are not called for the fixtures of the session."""

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        global _wide
        if fixturedef.scope != "function":
            before = Holdings.now()
            result = yield
            _wide |= Holdings.now() - before
        else:
            result = yield
        if isinstance(result, asyncio.Runner):
            # the runner would cancel leftover tasks without a word; this finalizer comes after those of the fixtures
            # that use the loop, and before the runner is closed
            fixturedef.addfinalizer(lambda: _note_tasks(result.get_loop()))
        return result


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_FixtureWatch())


def _note_tasks(loop: asyncio.AbstractEventLoop) -> None:
    _complaints.extend(f"task left behind: {task!r}" for task in asyncio.all_tasks(loop))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_BEFORE] = Holdings.now()
    _complaints.clear()
    return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        missing = [what for mark in item.iter_markers("needs") for what in mark.args if not _has(what)]
        if missing:
            reason = f"needs {', '.join(missing)}: as root, `make setup` installs what Debian has"
            item.add_marker(pytest.mark.skip(reason=reason))


def _has(what: str) -> bool:
    if what == "root":
        return os.geteuid() == 0
    return shutil.which(what, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    yield
    before = item.stash[_BEFORE] | _wide
    if item.stash.get(_FAILED, False):
        # a failed test keeps its locals alive in its traceback: what it left says nothing new
        (Holdings.now() - before).kill_children()
        return
    if Holdings.now() - before:
        gc.collect()
    left = left_since(before)
    if left or _complaints:
        complaint = "\n".join(["the test left behind or caused:", *_complaints, left.describe()])
        left.kill_children()
        pytest.fail(complaint, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """In CI a test that was skipped, or failed as expected, is a failed one."""
    if report.skipped and _CI and report.nodeid not in _MAY_SKIP_IN_CI:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail"
        report.outcome = "failed"
        report.longrepr = f"CI skips nothing. {why}"
