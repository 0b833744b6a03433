"""A client with containerd's habits, so that what breaks its pulls breaks ours.

Source: containerd core/remotes/docker (resolver.go, fetcher.go), behaviour as measured on 1.6.20, 1.7.24, 2.1.9 and
2.3.4: hosts in order for every object and no memory of bad ones; after a FIN in a body the rest is asked with
``Range: bytes=N-`` from the first host on; a RST fails the pull; only the whole digest is checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tests.kit.wire import Address, Answer, End, NoAnswer, Wire

_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ACCEPT: Final = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
)
_IDLE_RETRIES: Final = 3  # reopens without a new byte, then containerd gives up
_CODINGS: Final = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"


class PullFailed(AssertionError):
    """containerd would have failed this pull; the text says why."""


class Step(NamedTuple):
    """One request of a pull and what came back: which host, from which byte, its status, bytes and end."""

    host: int
    method: str
    target: str
    start: int
    status: int
    received: int
    end: End
    seconds: float


@dataclass
class Puller:
    """Pulls through ``hosts`` in order. ``steps`` tells afterwards what was asked and what came.

    Raises PullFailed where containerd would report an error.
    """

    hosts: Sequence[Address]
    registry: str = ""
    timeout: float = 20.0
    steps: list[Step] = field(default_factory=list)

    def pull(self, repository: str, tag: str) -> dict[str, bytes]:
        """Resolve the tag, then fetch everything it names; digest -> content."""
        digest, media_type = self.resolve(repository, tag)
        content: dict[str, bytes] = {}
        self._collect(repository, digest, media_type, content)
        return content

    def _collect(self, repository: str, digest: str, media_type: str, content: dict[str, bytes]) -> None:
        content[digest] = self.fetch(repository, digest, kind="manifests")
        document = json.loads(content[digest])
        if media_type in _INDEXES:
            for entry in document["manifests"]:
                self._collect(repository, entry["digest"], entry["mediaType"], content)
            return
        for entry in [document["config"], *document["layers"]]:
            if entry["digest"] not in content:
                content[entry["digest"]] = self.fetch(repository, entry["digest"], entry["size"])

    def resolve(self, repository: str, tag: str) -> tuple[str, str]:
        """HEAD of the tag: its digest and media type, from the first host that has it."""
        for host in range(len(self.hosts)):
            answer = self._ask(host, "HEAD", self._target(repository, "manifests", tag), Accept=_ACCEPT)
            if answer is not None and answer.status == 200:
                fields = answer.headers
                for name in ("docker-content-digest", "content-type", "content-length"):
                    if name not in fields:
                        raise PullFailed(f"HEAD of a tag without {name}")
                return fields["docker-content-digest"], fields["content-type"]
        raise PullFailed(f"{repository}:{tag} not found on any host: {self.steps}")

    def fetch(self, repository: str, digest: str, size: int | None = None, kind: str = "blobs") -> bytes:
        """One object, resumed over the hosts as containerd does it, its digest (and size) checked."""
        target = self._target(repository, kind, digest)
        body = b""
        idle = 0
        while True:
            answer = self.open(target, len(body))
            if answer.status == 200 and body:  # the range was ignored: containerd throws the first bytes away itself
                answer = answer._replace(body=answer.body[len(body) :])
            body += answer.body
            if answer.complete:
                break
            if answer.end is End.RST:
                raise PullFailed(f"connection reset by peer at byte {len(body)} of {digest}")
            idle = 0 if answer.body else idle + 1
            if idle > _IDLE_RETRIES:
                raise PullFailed(f"no progress at byte {len(body)} of {digest}")
        if size is not None and len(body) != size:
            raise PullFailed(f"{digest}: {len(body)} bytes instead of {size}")
        if digest != f"{digest.partition(':')[0]}:{hashlib.new(digest.partition(':')[0], body).hexdigest()}":
            raise PullFailed(f"unexpected commit digest for {digest}")
        return body

    def fetch_parallel(self, repository: str, digest: str, size: int, chunk: int, workers: int = 3) -> bytes:
        """One object in pieces as containerd 2.1+ may do it: open-ended ranges, each left by RST after ``chunk`` bytes.

        All pieces come from the first host; an error status on any of them fails the pull.
        """
        target = self._target(repository, "blobs", digest)
        starts = range(0, size, chunk)
        with ThreadPoolExecutor(workers) as pool:
            body = b"".join(pool.map(lambda start: self._piece(target, start, min(chunk, size - start)), starts))
        if digest != "sha256:" + hashlib.sha256(body).hexdigest():
            raise PullFailed(f"unexpected commit digest for {digest}")
        return body

    def _piece(self, target: str, start: int, count: int) -> bytes:
        body = b""
        for _ in range(1 + _IDLE_RETRIES):
            with Wire(self.hosts[0], timeout=self.timeout) as wire:
                wire.send(_request("GET", target, Range=f"bytes={start + len(body)}-", Accept_Encoding=_CODINGS))
                status, _ = wire.head()
                if status != 206:
                    raise PullFailed(f"{status} for the piece at {start}")
                whole = wire.fill(count - len(body))
                body += wire.take(count - len(body))
                self.steps.append(Step(0, "GET", target, start, status, len(body), wire.end, 0.0))
                if wire.end is End.RST:
                    raise PullFailed(f"connection reset by peer in the piece at {start}")
                if whole:
                    wire.reset()
                    return body
        raise PullFailed(f"no progress in the piece at {start}")

    def open(self, target: str, start: int) -> Answer:
        """One GET from byte ``start`` on, from the first host that gives it. Raises PullFailed if none does."""
        fields = {"Range": f"bytes={start}-"} if start else {}
        for host in range(len(self.hosts)):
            answer = self._ask(host, "GET", target, start=start, Accept="*/*", Accept_Encoding=_CODINGS, **fields)
            if answer is not None and answer.status in (200, 206):
                if "content-encoding" in answer.headers:
                    raise PullFailed("a Content-Encoding: containerd would decode it")
                return answer
        raise PullFailed(f"no host has {target} from byte {start}: {self.steps}")

    def _ask(self, host: int, method: str, target: str, *, start: int = 0, **fields: str) -> Answer | None:
        """One request; None if the host could not be reached or ended the connection before an answer."""
        try:
            with Wire(self.hosts[host], timeout=self.timeout) as wire:
                wire.send(_request(method, target, **fields))
                answer = wire.answer(method)
        except (ConnectionError, NoAnswer):
            self.steps.append(Step(host, method, target, start, 0, 0, End.RST, 0.0))
            return None
        self.steps.append(
            Step(host, method, target, start, answer.status, len(answer.body), answer.end, answer.seconds)
        )
        if answer.status in (408, 429) or 300 <= answer.status < 400:
            raise PullFailed(f"status {answer.status}: containerd would repeat it without pause, or fail")
        return answer

    def _target(self, repository: str, kind: str, reference: str) -> str:
        namespace = "?ns=" + self.registry.replace(":", "%3A") if self.registry else ""
        return f"/v2/{repository}/{kind}/{reference}{namespace}"


def _request(method: str, target: str, **fields: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: mirror.local:5000", "User-Agent: containerd/v2.3.4"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
