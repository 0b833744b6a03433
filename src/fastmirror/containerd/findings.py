"""What ``fastmirror doctor`` makes of what it saw: one finding per question. Pure.

Each finding says what is so, why it matters, and how to mend it; what could not be seen is a finding too.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

import msgspec

from fastmirror.containerd import hosts
from fastmirror.containerd.hosts import CannotPrepend
from fastmirror.containerd.plan import Found
from fastmirror.containerd.probe import Answer, Kind
from fastmirror.inventory.bridge import PeerRow

CRI_NAMESPACE: Final = "k8s.io"  # kubelet's, always
USUAL_CERTS: Final = "/etc/containerd/certs.d"


class Outcome(Enum):
    """How a question was answered."""

    FINE = "fine"
    NOTE = "note"  # no fault, but one should know it
    PROBLEM = "problem"
    UNSEEN = "unseen"


class Finding(msgspec.Struct, frozen=True):
    """The answer to one question. ``why`` and ``mend`` are empty when all is fine."""

    check: str
    outcome: Outcome
    what: str
    why: str = ""
    mend: str = ""


class SocketSeen(NamedTuple):
    """What was seen of containerd's socket. ``error`` is empty when it answered ``version``."""

    path: str
    exists: bool
    version: str = ""
    error: str = ""
    owner: str = ""  # such as 0660 0:0


def judge_socket(seen: SocketSeen) -> Finding:
    """Whether containerd can be asked for names."""
    why = "without it there are no names, tags and filters: content is served by digest only"
    if seen.version:
        return Finding("containerd", Outcome.FINE, f"containerd {seen.version} answers at {seen.path}")
    if not seen.exists:
        mend = "start containerd, or say where its socket is: --store containerd:SOCKET"
        return Finding("containerd", Outcome.PROBLEM, f"there is no socket at {seen.path}", why, mend)
    if "ermission denied" in seen.error:
        what = f"{seen.path} ({seen.owner}) may not be used by this user"
        mend = "run as a user whose group may use it; gid 0 is enough"
        return Finding("containerd", Outcome.PROBLEM, what, why, mend)
    mend = "look at containerd's log; is it running?"
    return Finding("containerd", Outcome.PROBLEM, f"{seen.path} does not answer: {seen.error}", why, mend)


class CriSeen(NamedTuple):
    """CRI's settings. ``source`` says where they were read; None in a setting means that it was not said there."""

    source: str
    config_path: str | None = None
    discard_unpacked_layers: bool | None = None
    fetch_buffer: int | None = None
    error: str = ""


def judge_config_path(seen: CriSeen, certs_dir: str, version: str) -> Finding:
    """Whether kubelet's pulls read our hosts.toml."""
    check, why = "config_path", "without it kubelet's pulls read no hosts.toml and go straight to the registries"
    table = _registry_table(version)
    mend = f"set config_path = '{certs_dir}' in [{table}] of containerd's configuration and restart containerd"
    if seen.config_path is None:
        what = f"CRI's config_path cannot be seen: {seen.error or seen.source + ' does not say'}"
        return Finding(check, Outcome.UNSEEN, what, why, "name the file with --containerd-config, or let --probe pull")
    if not seen.config_path:
        return Finding(check, Outcome.PROBLEM, f"CRI's config_path is empty (from {seen.source})", why, mend)
    paths = seen.config_path.split(":")
    if len(paths) > 1 and number(version) >= (2, 1):
        what = f"CRI's config_path is a list, {seen.config_path} (from {seen.source})"
        why = "since 2.1 containerd's pulls through the transfer service take a list for one path that does not exist"
        return Finding(check, Outcome.PROBLEM, what, why, mend + "; or set use_local_image_pull = true")
    if all(path.rstrip("/") != certs_dir.rstrip("/") for path in paths):
        what = f"CRI's config_path is {seen.config_path}, not {certs_dir} (from {seen.source})"
        return Finding(check, Outcome.PROBLEM, what, why, mend + "; or use --certs-dir with the path that it has")
    return Finding(check, Outcome.FINE, f"CRI reads {seen.config_path} (from {seen.source})")


def judge_discard(seen: CriSeen) -> Finding:
    """Whether layers stay after they were unpacked."""
    check = "discard_unpacked_layers"
    why = "layers that are thrown away after unpacking cannot be served to other nodes"
    if seen.discard_unpacked_layers is None:
        what = f"discard_unpacked_layers cannot be seen: {seen.error or seen.source + ' does not say'}"
        return Finding(check, Outcome.UNSEEN, what, why, "name containerd's configuration with --containerd-config")
    if seen.discard_unpacked_layers:
        mend = "set discard_unpacked_layers = false and restart containerd; EKS sets it to true"
        return Finding(check, Outcome.PROBLEM, f"layers are discarded (from {seen.source})", why, mend)
    return Finding(check, Outcome.FINE, f"layers are kept (from {seen.source})")


def judge_fetch_buffer(seen: CriSeen) -> Finding:
    """Whether containerd splits layers into ranges by itself."""
    check = "concurrent_layer_fetch_buffer"
    if not seen.fetch_buffer:
        what = "containerd fetches a layer in one piece" if seen.fetch_buffer == 0 else "not set where it can be seen"
        return Finding(check, Outcome.FINE, f"{what}, as it should beside fastmirror")
    why = "it asks for open-ended ranges and hangs up: a third more traffic, and slower from a mirror on the node"
    mend = "leave it at 0: fastmirror asks several nodes at once behind one stream"
    return Finding(check, Outcome.PROBLEM, f"it is {seen.fetch_buffer} (from {seen.source})", why, mend)


def judge_hosts(found: Found, mirror: str, registries: tuple[str, ...], certs_dir: str = USUAL_CERTS) -> list[Finding]:
    """Whether hosts.toml files send pulls to the mirror first: ``_default``, each registry with a directory, and those
    asked for.
    """
    judged: dict[str, str | None] = {}
    for name in dict.fromkeys([hosts.DEFAULT, *registries, *found.directories]):
        directories = hosts.target(name).directories if name in registries else (name,)
        directory = next((directory for directory in directories if directory in found.directories), None)
        if name.startswith((".", "_")) and name != hosts.DEFAULT:
            continue
        if directory is not None or name == hosts.DEFAULT:  # else _default counts for it
            judged[name] = directory
    mend = f"fastmirror configure --mirror {mirror}" + ("" if certs_dir == USUAL_CERTS else f" --certs-dir {certs_dir}")
    if len(judged) > 1:  # all of them: configure takes back what it is not told of
        mend += "".join(f" --registry {name}" for name in dict.fromkeys(map(_registry, judged)))
    return [_judge_directory(found, name, directory, mirror, mend) for name, directory in judged.items()]


def _registry(name: str) -> str:
    """The registry that a directory of certs.d is for, as --registry has it."""
    return name if name == hosts.DEFAULT else name.replace("_", ":", 1).rstrip("_")


def _judge_directory(found: Found, name: str, directory: str | None, mirror: str, mend: str) -> Finding:
    check = f"hosts.toml of {name}"
    whose = "all registries without a directory of their own" if name == hosts.DEFAULT else name
    why = f"pulls from {whose} do not ask the mirror"
    path = f"{directory}/{hosts.FILE}"
    if path in found.unreadable:
        what, unseen = f"{path} cannot be read: {found.unreadable[path]}", "whether containerd asks the mirror is there"
        return Finding(check, Outcome.UNSEEN, what, unseen, "make it a file, or run as a user who may read it")
    state = found.files.get(path)
    if state is None:
        what = f"{directory} has no hosts.toml and hides _default" if directory else "there is none"
        return Finding(check, Outcome.PROBLEM, what, why, mend)
    try:
        document = hosts.parse(state.content.decode())
    except (CannotPrepend, UnicodeDecodeError) as error:
        return Finding(check, Outcome.PROBLEM, f"{directory}/{hosts.FILE} cannot be read: {error}", why, mend)
    if not hosts.names_mirror(document, mirror):
        what = f"{directory}/{hosts.FILE} does not name {mirror}"
        hides = " and hides _default" if name != hosts.DEFAULT else ""
        return Finding(check, Outcome.PROBLEM, what + hides, why, mend)
    first = next(iter(document["host"]))
    if str(first).rstrip("/") != mirror:
        what = f"{directory}/{hosts.FILE} has {first} before the mirror"
        return Finding(check, Outcome.PROBLEM, what, "pulls ask it first", "put the mirror's table before the others")
    return Finding(check, Outcome.FINE, f"{directory}/{hosts.FILE} has the mirror first")


def judge_mirror(url: str, answer: Answer, version: str, certs_dir: str = USUAL_CERTS) -> Finding:
    """Whether the port that containerd is sent to is fastmirror's."""
    if answer.kind is Kind.OURS:
        other = "" if answer.detail == version else f"; this command is {version}"
        return Finding("mirror", Outcome.FINE, f"fastmirror {answer.detail} answers at {url}{other}")
    if answer.kind is Kind.ABSENT:
        why = "pulls go to the registries as if there were no mirror"
        mend = "start fastmirror serve, or give its address with --mirror"
        return Finding("mirror", Outcome.PROBLEM, f"at {url} {answer}", why, mend)
    why = "containerd asks it first and believes what it says, or waits for it for ever"
    mend = f"free the port or move the mirror to another; until then: fastmirror cleanup --certs-dir {certs_dir}"
    return Finding("mirror", Outcome.PROBLEM, f"at {url} {answer}", why, mend)


def judge_namespace(namespace: str, listed: int, kubelets: int | None) -> Finding:
    """Whether the namespace that is served is the one that has content. ``kubelets`` is how much content CRI's
    namespace has; None if that is the one served, or could not be asked.
    """
    check = "namespace"
    if listed or not kubelets:
        return Finding(check, Outcome.FINE, f"containerd's namespace {namespace} has {listed} blobs")
    what = f"containerd's namespace {namespace} has no content, {CRI_NAMESPACE} has {kubelets} blobs"
    why = f"only one namespace is served, and what kubelet pulls is in {CRI_NAMESPACE}"
    return Finding(check, Outcome.PROBLEM, what, why, f"set containerd_namespace to {CRI_NAMESPACE}")


class SpoolSeen(NamedTuple):
    """What was seen of the spool's directory. ``free`` is in bytes; None if no file could be made there: ``error``.
    Without ``visible`` not even the directory could be looked at.
    """

    directory: str
    free: int | None = None
    error: str = ""
    code: int = 0  # errno
    visible: bool = True


def judge_spool(seen: SpoolSeen, spool_bytes: int, least: int) -> Finding:
    """Whether content on its way from other nodes has room: ``spool_bytes`` as set, ``least`` for any blob at all."""
    check, why = "spool", "content from other nodes is written there first; without room pulls go to the registries"
    where = "set spool_dir to a directory on a disk with room"
    if seen.code in (errno.ENOSPC, errno.EDQUOT) or (seen.free is not None and seen.free < least):
        what = f"{seen.directory} is full: {seen.error or f'{_size(seen.free or 0)} are free'}"
        return Finding(check, Outcome.PROBLEM, what, why, f"free space there, or {where}")
    if seen.code == errno.ENOENT:
        mend = f"make it for fastmirror's user (serve does so at its start if it may), or {where}"
        return Finding(check, Outcome.PROBLEM, f"there is no directory {seen.directory}", why, mend)
    if not seen.visible:
        what = f"this user may not look at {seen.directory}: {seen.error}"
        return Finding(check, Outcome.UNSEEN, what, why, "run as fastmirror's user")
    if seen.free is None:
        mend = f"let fastmirror's user (and run this as that user) write there, or {where}"
        return Finding(check, Outcome.PROBLEM, f"{seen.directory} cannot be written: {seen.error}", why, mend)
    free = f"{seen.directory} may be written; {_size(seen.free)} are free"
    if seen.free < spool_bytes:
        what = f"{free}, less than spool_bytes ({_size(spool_bytes)})"
        why = "many large pulls at once may fill that disk"
        return Finding(check, Outcome.NOTE, what, why, f"lower spool_bytes, or {where}")
    return Finding(check, Outcome.FINE, free)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >> 30 else f"{count >> 10} KiB"


class ContentSeen(NamedTuple):
    """What was seen of the content directory: the one that is served, and the one that containerd names.

    The identities are device and inode. ``held`` says whether files that containerd lists are in the served one, with
    the sizes it gives; None if there were none to compare.
    """

    served: str
    served_identity: tuple[int, int] | None
    named: str = ""
    named_identity: tuple[int, int] | None = None
    held: bool | None = None
    error: str = ""


def judge_content(seen: ContentSeen) -> Finding:
    """Whether the directory that is served is containerd's own."""
    check, why = "content", "blobs are read from this directory; another one has other content, or none"
    if not seen.served:
        mend = "start containerd, or name the directory: --store containerd:SOCKET,content=DIR"
        return Finding(check, Outcome.UNSEEN, f"the content directory is not known: {seen.error}", why, mend)
    if seen.served_identity is None:
        mend = "give this user read access, or mount containerd's io.containerd.content.v1.content there"
        return Finding(check, Outcome.PROBLEM, f"{seen.served} cannot be read: {seen.error}", why, mend)
    mend = f"use {seen.named or 'the root that containerd names'}, or mount that directory at {seen.served}"
    if seen.named_identity is not None:
        if seen.named_identity == seen.served_identity:
            return Finding(check, Outcome.FINE, f"{seen.served} is containerd's own (device and inode)")
        return Finding(check, Outcome.PROBLEM, f"{seen.served} is not {seen.named}, which containerd uses", why, mend)
    if seen.held:
        return Finding(check, Outcome.FINE, f"{seen.served} holds what containerd lists")
    if seen.held is False:
        return Finding(check, Outcome.PROBLEM, f"{seen.served} lacks files that containerd lists", why, mend)
    what = f"whether {seen.served} is containerd's own cannot be seen: {seen.error or 'containerd lists no content'}"
    return Finding(check, Outcome.UNSEEN, what, why, "pull an image and look again, or run on the host itself")


def judge_peers(answers: Mapping[str, Answer]) -> list[Finding]:
    """Whether the other nodes can be asked."""
    findings = []
    for peer, answer in answers.items():
        check = f"peer {peer}"
        if answer.kind is Kind.OURS:
            findings.append(Finding(check, Outcome.FINE, f"fastmirror {answer.detail} answers"))
            continue
        mend = "is fastmirror running there, does it listen on that address, does a firewall drop the port?"
        findings.append(Finding(check, Outcome.PROBLEM, str(answer), "its content cannot be fetched", mend))
    return findings


def judge_nodes(nodes: Sequence[PeerRow] | str) -> list[Finding]:
    """Whether the running node has other nodes and reaches them. A text is why that cannot be seen."""
    why = "content that only other nodes have comes from the registry"
    if isinstance(nodes, str):
        mend = "run it where --admin-addr of the running node answers, or give --peers HOST:PORT of other nodes"
        return [Finding("peers", Outcome.UNSEEN, nodes, why, mend)]
    if not nodes:
        mend = "is this the only node? else look at --bootstrap, and whether the router's port is open between nodes"
        return [Finding("peers", Outcome.PROBLEM, "the router has found no other node", why, mend)]
    findings = []
    for node in nodes:
        check = f"peer {node.name if node.peer_id and node.name else node.address}"  # given ones have names of hosts
        if node.state == "live":
            trip = "" if node.round_trip is None else f", {node.round_trip * 1000:.1f} ms away"
            findings.append(Finding(check, Outcome.FINE, f"{node.address} is live{trip}"))
        elif node.state == "left":
            findings.append(Finding(check, Outcome.NOTE, f"{node.address} has left", "it was stopped", ""))
        else:
            what = f"{node.address} is {node.state}" + (f": {node.failure}" if node.failure else "")
            mend = "is fastmirror running there, are its ports open between the nodes, and is this its peer listener?"
            findings.append(Finding(check, Outcome.PROBLEM, what, why, mend))
    if all(node.state == "left" for node in nodes):
        mend = "start fastmirror on the other nodes; one that starts finds this one by itself"
        findings.append(Finding("peers", Outcome.PROBLEM, "all other nodes have left", why, mend))
    return findings


def judge_peer_listener(where: str, answer: Answer) -> Finding:
    """Whether this node's peer listener asks who comes for proof that it is a node of the cluster."""
    check = "peer listener"
    if answer.kind is not Kind.OURS:
        why = "whether strangers can read images there cannot be seen"
        return Finding(check, Outcome.UNSEEN, f"{where}: {answer}", why, "give --peer-addr as serve has it")
    if answer.status == 403:
        return Finding(check, Outcome.FINE, f"{where} asks other nodes for proof that they are let in")
    why = "whoever reaches it can read every image that this node serves, private ones too"
    mend = (
        "set admission_secret_file (or allow_peer_id) with the libp2p router on all nodes, "
        "or let a firewall pass other nodes only"
    )
    return Finding(check, Outcome.NOTE, f"{where} is open", why, mend)


class ServedSeen(NamedTuple):
    """A digest that containerd has, asked of the mirror: what came back."""

    digest: str = ""
    status: int = 0
    right: bool = False
    error: str = ""


def judge_served(seen: ServedSeen) -> Finding:
    """Whether a digest of this node comes out of the mirror with the right bytes."""
    check, why = "end to end", "this is what containerd and other nodes get"
    if not seen.digest:
        what = f"nothing was asked for: {seen.error}"
        return Finding(check, Outcome.UNSEEN, what, why, "pull an image and look again")
    if seen.right:
        return Finding(check, Outcome.FINE, f"{seen.digest[:19]} was served and its bytes are right")
    if seen.error:
        return Finding(check, Outcome.PROBLEM, f"{seen.digest[:19]} was not served: {seen.error}", why, "see `mirror`")
    if seen.status == 404:
        mend = "is --store this containerd, is content another directory, does --allow or --deny leave it out?"
        return Finding(check, Outcome.PROBLEM, f"the mirror does not have {seen.digest[:19]}", why, mend)
    what = f"{seen.digest[:19]} came back with status {seen.status} and other bytes"
    mend = "check the disk: `ctr content fetch` it again; fastmirror never serves what it knows to be wrong"
    return Finding(check, Outcome.PROBLEM, what, why, mend)


def judge_probe(seen: bool | None, error: str, certs_dir: str, version: str) -> Finding:
    """Whether a real pull through CRI read a hosts.toml that was put there for it."""
    check, why = "probe", "this is how kubelet pulls: without hosts.toml it goes straight to the registries"
    if seen is None:
        return Finding(check, Outcome.UNSEEN, f"no pull could be tried: {error}", why, "see `containerd`")
    if seen:
        return Finding(check, Outcome.FINE, f"a pull through CRI read {certs_dir}")
    mend = f"set config_path = '{certs_dir}' in [{_registry_table(version)}] and restart containerd"
    return Finding(check, Outcome.PROBLEM, f"a pull through CRI did not read {certs_dir}: {error}", why, mend)


class Exit(Enum):
    """Exit codes of ``fastmirror doctor``."""

    FINE = 0
    PROBLEM = 1
    UNSEEN = 3


def exit_of(findings: list[Finding]) -> Exit:
    """1 if anything is a problem; else 3 if anything could not be seen; else 0."""
    outcomes = {finding.outcome for finding in findings}
    if Outcome.PROBLEM in outcomes:
        return Exit.PROBLEM
    return Exit.UNSEEN if Outcome.UNSEEN in outcomes else Exit.FINE


_VERSION: Final = re.compile(r"v?(\d+)\.(\d+)")


def number(version: str) -> tuple[int, int]:
    """Major and minor of containerd's version; (0, 0) if it is not known."""
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _registry_table(version: str) -> str:
    plugin = "io.containerd.cri.v1.images" if number(version) >= (2, 0) else "io.containerd.grpc.v1.cri"
    return f'plugins."{plugin}".registry'
