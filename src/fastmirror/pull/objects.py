"""One object from the first host that gives it, resumed as containerd does it.

Source: containerd core/remotes/docker, resolver.go and httpreadseeker.go: hosts in order for every request and no
memory of bad ones; after an early FIN the rest is asked for with a Range, from the first host on; a reset is a failure.
"""

from __future__ import annotations

import http.client
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from fastmirror.errors import DigestInvalid, DigestMismatch, PullFailed
from fastmirror.oci.descriptor import MANIFEST_TYPES
from fastmirror.oci.digest import Digest
from fastmirror.pull.hosts import Answer, Client, Host
from fastmirror.pull.image import ImageName
from fastmirror.pull.measured import Measured
from fastmirror.store import Ingest

ACCEPT: Final = ", ".join((*sorted(MANIFEST_TYPES), "*/*"))
_IDLE_RESUMES: Final = 3  # without a new byte, then containerd gives up
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-", re.ASCII)
_HUB: Final = "registry-1.docker.io"


class Objects:
    """Objects of one image from ``hosts``, the first of which is the mirror. For several threads at once."""

    def __init__(self, client: Client, image: ImageName, hosts: Sequence[Host]) -> None:
        self._client = client
        self._image = image
        self._hosts = hosts

    def resolve(self) -> tuple[Digest, int | None]:
        """What the tag means: its digest, and its size if that is told. Raises PullFailed."""
        host, answer = self._first("HEAD", "manifests", self._image.tag, {"Accept": ACCEPT}, "its tag")
        with answer:
            try:
                return Digest.parse(answer.headers.get("Docker-Content-Digest", "")), answer.length
            except DigestInvalid:
                raise PullFailed(f"{self._image}: {host} answers without the digest of the tag") from None

    def fetch(self, what: Measured, sink: Ingest) -> None:
        """Bring ``what`` into ``sink``, verified. Raises PullFailed, and StoreError or OSError of the sink."""
        what.begin()
        whole = False
        try:
            idle = 0
            while True:
                before = what.bytes
                host = self._receive(what, sink)
                if what.bytes == what.size:
                    break
                idle = 0 if what.bytes > before else idle + 1
                if idle > _IDLE_RESUMES:
                    self._fail(what, f"{host} ends the answer at byte {what.bytes} of {what.size}, again and again")
                what.resumes += 1
            sink.commit()
            whole = True
        except DigestMismatch as error:
            self._fail(what, f"{', '.join(what.hosts) or 'nobody'} sent other content: {error}")
        finally:
            sink.abort()
            what.end(whole=whole)

    def _receive(self, what: Measured, sink: Ingest) -> Host:
        """Bytes from the first host that has them, until it ends; the host."""
        at = what.bytes
        kind = "manifests" if what.kind in ("index", "manifest") else "blobs"
        fields = {"Accept": ACCEPT} if kind == "manifests" else {}
        if at:
            fields["Range"] = f"bytes={at}-"
        host, answer = self._first("GET", kind, what.digest, fields, f"{what.kind} {what.digest} from byte {at}")
        with answer:
            skip = 0 if answer.status == 206 else at
            if answer.status == 206 and not _begins_at(answer, at):
                self._fail(what, f"{host} sends another range than was asked for")
            if what.size is None:
                what.size = answer.length
            if what.size is None:
                self._fail(what, f"{host} does not say how long it is")
            while what.bytes < what.size and (piece := self._read(what, host, answer)):
                if skip:
                    skipped = min(skip, len(piece))
                    skip, piece = skip - skipped, piece[skipped:]
                if piece:
                    piece = piece[: what.size - what.bytes]
                    what.arrived(len(piece), str(host))
                    sink.write(piece)
        return host

    def _read(self, what: Measured, host: Host, answer: Answer) -> bytes:
        """The next piece. An error of a connection is no early end: containerd would not resume there."""
        try:
            return answer.read()
        except TimeoutError:
            self._fail(what, f"{host} is silent in the middle of the answer, at byte {what.bytes} of {what.size}")
        except (OSError, http.client.HTTPException) as error:
            self._fail(what, f"{host} breaks the connection at byte {what.bytes} of {what.size} ({_why(error)})")

    def _first(
        self, method: str, kind: str, reference: str, fields: Mapping[str, str], what: str
    ) -> tuple[Host, Answer]:
        """The first host that answers well. Raises PullFailed with what each one said."""
        said: list[str] = []
        missed = True
        for host in self._hosts:
            try:
                answer = self._client.ask(host, method, self._target(host, kind, reference), fields)
            except (OSError, http.client.HTTPException) as error:
                missed = False
                said.append(f"{host}: {_why(error)}")
                continue
            if answer.status == 200 or (answer.status == 206 and "Range" in fields):
                return host, answer
            answer.close()
            missed = missed and answer.status == 404
            said.append(f"{host}: " + ("does not have it (404)" if answer.status == 404 else f"status {answer.status}"))
        text = f"{self._image}: {what}: {'; '.join(said)}"
        if missed:
            text += f". A miss: {self._advice(kind, reference)}"
        raise PullFailed(text, missed=missed)

    def _advice(self, kind: str, reference: str) -> str:
        if len(self._hosts) > 1:
            return "no host that was asked has it"
        text = "neither this mirror nor a peer of it has it; containerd would ask the origin, and so does --origin URL"
        if kind == "manifests" and ":" not in reference:
            text += "; a mirror without --resolve-tags knows only its own tags, so NAME@DIGEST may do"
        return text

    def _target(self, host: Host, kind: str, reference: str) -> str:
        registry = self._image.registry
        own = host.authority in (registry, _HUB if registry == "docker.io" else registry)
        namespace = "" if own else f"?ns={urllib.parse.quote(registry, safe='')}"
        return f"/v2/{self._image.repository}/{kind}/{reference}{namespace}"

    def _fail(self, what: Measured, why: str) -> NoReturn:
        raise PullFailed(f"{self._image}: {what.kind} {what.digest}: {why}")


def _begins_at(answer: Answer, at: int) -> bool:
    match = _CONTENT_RANGE.match(answer.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == at


def _why(error: Exception) -> str:
    """Why a host gave no answer, in a few words."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
