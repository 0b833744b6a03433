"""What the admin listener answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from fastmirror._native.requests import Refusal, Request
from fastmirror.admin import Admin, Readiness, refuse
from fastmirror.http.message import Reply
from fastmirror.observe.metrics import Metrics


async def ask(admin: Admin, target: str) -> Reply:
    reply = admin(Request("GET", target.encode(), None, None, True, "127.0.0.1"))
    return reply if isinstance(reply, Reply) else await reply


def status(reply: Reply) -> int:
    return int(reply.head.split()[1])


def readyz(reply: Reply) -> tuple[int, Any]:
    return status(reply), json.loads(reply.content)


async def test_alive_whatever_the_state():
    readiness = Readiness()
    admin = Admin(readiness, Metrics(), dict)
    assert status(await ask(admin, "/livez")) == 200
    readiness.end("draining")
    assert status(await ask(admin, "/livez")) == 200


async def test_ready_only_between_begin_and_end_and_says_why_not():
    readiness = Readiness()
    admin = Admin(readiness, Metrics(), dict)
    assert readyz(await ask(admin, "/readyz")) == (503, {"ready": False, "reasons": ["starting"]})
    readiness.begin()
    assert readyz(await ask(admin, "/readyz?verbose")) == (200, {"ready": True, "reasons": []})
    readiness.end("draining")
    assert readyz(await ask(admin, "/readyz")) == (503, {"ready": False, "reasons": ["draining"]})


async def test_not_ready_while_a_part_says_it_cannot_work():
    readiness = Readiness()
    fault: list[str | None] = ["store oci:a: its blobs cannot be read"]
    readiness.watch(lambda: fault[0])
    readiness.watch(lambda: None)
    readiness.begin()
    admin = Admin(readiness, Metrics(), dict)
    assert readyz(await ask(admin, "/readyz"))[1]["reasons"] == fault
    fault[0] = None
    assert status(await ask(admin, "/readyz")) == 200


async def test_metrics_are_rendered_in_slices_that_let_the_loop_go_on():
    turns = 0

    async def other_work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        worker = group.create_task(other_work())
        reply = await ask(Admin(Readiness(), Metrics(), dict), "/metrics")
        worker.cancel()
    assert b"Content-Type: text/plain; version=0.0.4" in reply.head
    assert b"fastmirror_build_info{" in reply.content
    assert turns > 20


async def test_fetches_are_told_as_json():
    told = {"kept": 64, "fetches": [{"digest": "sha256:00", "peers": []}]}
    reply = await ask(Admin(Readiness(), Metrics(), lambda: told), "/fetches")
    assert b"Content-Type: application/json" in reply.head
    assert json.loads(reply.content) == told


@pytest.mark.parametrize("target", ["/", "/v2/", "/metrics/", "/readyz/../livez", "//livez", "/LIVEZ", "/debug/pprof"])
async def test_nothing_else_is_there(target):
    reply = await ask(Admin(Readiness(), Metrics(), dict), target)
    assert status(reply) == 404
    assert b"/livez, /readyz, /metrics and /fetches" in reply.content


def test_a_refused_request_gets_its_status_as_text():
    reply = refuse(Refusal(405, "only GET and HEAD", False))
    assert status(reply) == 405
    assert b"Allow: GET, HEAD" in reply.head
    assert refuse(Refusal(431, "too large", True)).close
