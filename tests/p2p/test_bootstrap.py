"""Where the first other node is found: an address, a name, or a list behind a URL."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest
import trio

from fastmirror.p2p.bootstrap import MOST_FOUND, Bootstrap, Place
from tests.p2p.conftest import until


@pytest.fixture(autouse=True)
def no_idle_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.02)  # else trio keeps them for ten seconds


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, body = self.server.answers[self.path]  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def endpoint(**answers: object) -> Iterator[str]:
    """A server with an answer for each path; its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        server.answers = {f"/{name}": answer for name, answer in answers.items()}  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def look_up(*sources: str) -> tuple[list[Place], str]:
    """What these sources give, and what is wrong with them."""
    made = Bootstrap(sources)
    return trio.run(made.places), made.problem


@pytest.mark.parametrize(
    "body", [b'["10.0.0.1:4400", "[fd00::1]:4401"]', b"10.0.0.1:4400\n\n [fd00::1]:4401 \n"], ids=["JSON", "lines"]
)
def test_a_url_gives_a_list_of_addresses(body):
    with endpoint(list=(200, {}, body)) as url:
        assert look_up(f"{url}/list") == ([("10.0.0.1", 4400), ("fd00::1", 4401)], "")


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (500, {}, b"10.0.0.1:4400", "status 500"),
        (302, {"Location": "/other"}, b"", "status 302"),
        (200, {}, b'[1, "10.0.0.1:4400"]', "HOST:PORT"),
        (200, {}, b"[", ""),
        (200, {}, b"no address", ""),
        (200, {}, b"\xff\xfe:1", ""),
    ],
)
def test_what_is_no_such_list_is_a_problem_that_is_told_and_gives_nothing(status, headers, body, said):
    with endpoint(list=(status, headers, body), other=(200, {}, b"10.0.0.9:1")) as url:
        places, problem = look_up(f"{url}/list", "10.0.0.2:4400")
        assert places == [("10.0.0.2", 4400)], "the other sources count all the same"
        assert f"bootstrap {url}/list" in problem
        assert said in problem


def test_a_list_without_end_is_cut():
    body = b"".join(b"10.%d.%d.%d:4400\n" % (n >> 16, n >> 8 & 255, n & 255) for n in range(90_000))
    with endpoint(list=(200, {}, body[: 1 << 20])) as url:
        places, _ = look_up(f"{url}/list")
        assert len(places) <= MOST_FOUND


def test_a_name_gives_all_its_addresses_and_one_that_is_not_there_is_a_problem():
    places, problem = look_up("dns:localhost:4400")
    assert ("127.0.0.1", 4400) in places
    assert not problem
    assert "no-such-name" in look_up("dns:no-such-name.invalid:4400")[1]


async def test_nodes_find_each_other_through_a_url_that_lists_them_all(cluster):
    listed = "\n".join(f"{host}:4400" for host in cluster.hosts[:3]).encode()
    with endpoint(routers=(200, {}, listed)) as url:
        routers = [cluster.start(number, bootstrap=[f"{url}/routers"]) for number in range(3)]
        await until(lambda: all(len(router.peers()) == 2 for router in routers), "all are joined")
