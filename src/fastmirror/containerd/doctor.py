"""``fastmirror doctor``: asks every question that it can, and says of the others that it cannot."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fastmirror import __version__
from fastmirror.config import Settings, check
from fastmirror.containerd import findings, hosts, look
from fastmirror.containerd.certs import CertsDirectory
from fastmirror.containerd.client import Client
from fastmirror.containerd.findings import Finding, Outcome
from fastmirror.containerd.frames import ContentRecord
from fastmirror.containerd.probe import probe
from fastmirror.errors import CertsError, StoreError
from fastmirror.fetch.spool import spool_directory
from fastmirror.inventory.bridge import PeerRow


class Questions(NamedTuple):
    """What to look at. Without ``socket`` (a store of plain files) containerd is not asked. ``nodes`` is what the
    running node knows of the others, or why that is not known; without, ``peers`` are asked from here.
    """

    mirror: str
    peer_addr: str
    certs_dir: Path
    containerd_config: Path
    socket: str | None = None
    content: str = ""
    namespace: str = "k8s.io"
    registries: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    nodes: tuple[PeerRow, ...] | str | None = None
    pull: bool = False
    spool: str = "/var/tmp"
    spool_bytes: int = 0
    least_bytes: int = 0  # of room in the spool: a blob of usual size


def questions(settings: Settings, **given: Any) -> Questions:
    """What to look at on a node with these settings, and the command's own options. Raises ConfigError.

    Of several stores containerd's is looked at.
    """
    stores = [check.store(text) for text in settings.stores.store]
    store = next((store for store in stores if store.kind == "containerd"), None)
    plain = next((store.path for store in stores if store.kind == "content"), "")
    return Questions(
        mirror=hosts.mirror_url(given["mirror"] or _url(settings.serve.registry_addr)),
        peer_addr=settings.serve.peer_addr,
        certs_dir=Path(os.path.abspath(given["certs_dir"])),  # what it advises is for any directory
        containerd_config=Path(given["containerd_config"]),
        socket=None if store is None else store.path,
        content=plain if store is None else store.content,
        namespace=settings.stores.containerd_namespace,
        registries=tuple(hosts.target(name).registry for name in given["registries"]),
        peers=settings.fetch.peers,
        nodes=given.get("nodes"),
        pull=given["probe"],
        spool=spool_directory(settings),
        spool_bytes=settings.fetch.spool_bytes,
        least_bytes=settings.fetch.whole_bytes,
    )


def _url(listener: str) -> str:
    """Where a listener of this node is asked from this node."""
    address = check.address(listener)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)
    return f"http://{address._replace(host=host)}"


def run(questions: Questions) -> list[Finding]:
    """:func:`examine`, in a loop of its own."""
    return asyncio.run(examine(questions))


async def examine(questions: Questions) -> list[Finding]:
    """All findings, in the order in which they are best mended."""
    made: list[Finding] = []
    if questions.socket is None:
        why = "names, CRI's settings and containerd's own directory cannot be seen without its socket"
        mend = "give --store containerd:SOCKET to look at them"
        what = "no socket is configured" if questions.content else "not seen: the store is an OCI layout"
        made.append(Finding("containerd", Outcome.UNSEEN, what, why, mend))
        listed: list[ContentRecord] = []
    else:
        async with Client(questions.socket, questions.namespace) as client:
            listed = await _ask_containerd(made, client, questions, questions.socket)
    made += _look_at_certs(questions)
    spool = look.look_at_spool(questions.spool)
    made.append(findings.judge_spool(spool, questions.spool_bytes, questions.least_bytes))
    answer = probe(questions.mirror)
    made.append(findings.judge_mirror(questions.mirror, answer, __version__, str(questions.certs_dir)))
    unasked = findings.ServedSeen(error="containerd, which would say what is here, was not asked")
    served = unasked if questions.socket is None else look.look_at_served(questions.mirror, listed)
    made.append(findings.judge_served(served))
    made.append(findings.judge_peer_listener(questions.peer_addr, probe(_url(questions.peer_addr))))
    if questions.nodes is not None:
        made += findings.judge_nodes(questions.nodes)
        return made
    made += findings.judge_peers({peer: probe(f"http://{peer}") for peer in questions.peers})
    return made


async def _ask_containerd(
    made: list[Finding], client: Client, questions: Questions, socket: str
) -> list[ContentRecord]:
    seen = await look.look_at_socket(client, socket)
    made.append(findings.judge_socket(seen))
    cri = await look.look_at_cri(client, questions.containerd_config, seen.version)
    certs_dir = str(questions.certs_dir)
    made.append(findings.judge_config_path(cri, certs_dir, seen.version))
    if questions.pull:
        asked, error = (None, seen.error) if not seen.version else await look.look_at_pull(client, questions.certs_dir)
        made.append(findings.judge_probe(asked, error, certs_dir, seen.version))
    made.append(findings.judge_discard(cri))
    made.append(findings.judge_fetch_buffer(cri))
    try:
        listed = await client.content()
    except StoreError as error:
        listed = []
        what = f"content of the namespace {questions.namespace} cannot be listed: {error}"
        made.append(Finding("namespace", Outcome.UNSEEN, what, "only one namespace is served", "see `containerd`"))
    else:
        kubelets = None if listed else await _kubelets_content(questions, socket)
        made.append(findings.judge_namespace(questions.namespace, len(listed), kubelets))
    made.append(findings.judge_content(await look.look_at_content(client, questions.content, listed)))
    return listed


async def _kubelets_content(questions: Questions, socket: str) -> int | None:
    """How much content CRI's namespace has, if that is not the one that is served."""
    if questions.namespace == findings.CRI_NAMESPACE:
        return None
    async with Client(socket, findings.CRI_NAMESPACE) as client:
        try:
            return len(await client.content())
        except StoreError:
            return None


def _look_at_certs(questions: Questions) -> list[Finding]:
    try:
        found = CertsDirectory(questions.certs_dir).find()
    except CertsError as error:
        why = "whether containerd asks the mirror is written there"
        return [Finding("hosts.toml", Outcome.UNSEEN, str(error), why, "run as a user who may read it")]
    return findings.judge_hosts(found, questions.mirror, questions.registries, str(questions.certs_dir))


def to_json(made: list[Finding]) -> str:
    """The findings for a program: a list of objects with check, outcome, what, why and mend."""
    return msgspec.json.format(msgspec.json.encode(made), indent=2).decode()


def render(made: list[Finding]) -> str:
    """The findings for a person."""
    marks = {Outcome.FINE: "ok", Outcome.NOTE: "note", Outcome.PROBLEM: "PROBLEM", Outcome.UNSEEN: "unseen"}
    lines = []
    for finding in made:
        lines.append(f"{marks[finding.outcome]:8} {finding.check}: {finding.what}")
        if finding.why:
            lines.append(f"{'':8}   why:  {finding.why}")
        if finding.mend:
            lines.append(f"{'':8}   mend: {finding.mend}")
    return "\n".join(lines)
