"""What doctor makes of what it saw."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fastmirror.config import FetchSettings, Settings, StoreSettings
from fastmirror.containerd import doctor
from fastmirror.containerd.findings import (
    ContentSeen,
    CriSeen,
    Exit,
    Finding,
    Outcome,
    ServedSeen,
    SocketSeen,
    SpoolSeen,
    exit_of,
    judge_config_path,
    judge_content,
    judge_discard,
    judge_fetch_buffer,
    judge_hosts,
    judge_mirror,
    judge_namespace,
    judge_nodes,
    judge_peer_listener,
    judge_peers,
    judge_probe,
    judge_served,
    judge_socket,
    judge_spool,
)
from fastmirror.containerd.hosts import block
from fastmirror.containerd.look import look_at_spool
from fastmirror.containerd.plan import FileState, Found
from fastmirror.containerd.probe import Answer, Kind
from fastmirror.inventory.bridge import PeerRow
from tests.kit.cluster import free_port
from tests.kit.process import start

URL = "http://127.0.0.1:5000"
CERTS = "/etc/containerd/certs.d"
FINE, PROBLEM, UNSEEN = Outcome.FINE, Outcome.PROBLEM, Outcome.UNSEEN


@pytest.mark.parametrize(
    ("seen", "outcome", "said"),
    [
        (SocketSeen("/s", exists=True, version="1.7.24"), FINE, "containerd 1.7.24 answers"),
        (SocketSeen("/s", exists=False), PROBLEM, "there is no socket at /s"),
        (SocketSeen("/s", True, "", "Permission denied", "0660 0:0"), PROBLEM, "(0660 0:0) may not be used"),
        (SocketSeen("/s", True, "", "no answer in time"), PROBLEM, "does not answer: no answer in time"),
    ],
)
def test_the_socket(seen, outcome, said):
    found = judge_socket(seen)
    assert found.outcome is outcome
    assert said in found.what


@pytest.mark.parametrize(
    ("path", "version", "outcome", "said"),
    [
        (CERTS, "1.7.24", FINE, "CRI reads"),
        (CERTS + "/", "2.1.9", FINE, "CRI reads"),
        ("", "1.7.24", PROBLEM, "is empty"),
        (f"{CERTS}:/etc/docker/certs.d", "1.7.24", FINE, "CRI reads"),
        (f"{CERTS}:/etc/docker/certs.d", "v2.1.9", PROBLEM, "is a list"),
        ("/other", "2.1.9", PROBLEM, "is /other, not"),
        (None, "2.1.9", UNSEEN, "cannot be seen"),
    ],
)
def test_the_config_path(path, version, outcome, said):
    found = judge_config_path(CriSeen("config.toml", path), CERTS, version)
    assert found.outcome is outcome
    assert said in found.what


def test_how_to_mend_names_the_table_of_the_version():
    assert 'plugins."io.containerd.grpc.v1.cri".registry' in judge_config_path(CriSeen("f", ""), CERTS, "1.7.24").mend
    assert 'plugins."io.containerd.cri.v1.images".registry' in judge_config_path(CriSeen("f", ""), CERTS, "2.1.9").mend


@pytest.mark.parametrize(("discard", "outcome"), [(False, FINE), (True, PROBLEM), (None, UNSEEN)])
def test_discarded_layers(discard, outcome):
    assert judge_discard(CriSeen("CRI", CERTS, discard)).outcome is outcome


@pytest.mark.parametrize(("size", "outcome"), [(0, FINE), (None, FINE), (8 << 20, PROBLEM)])
def test_the_fetch_buffer(size, outcome):
    assert judge_fetch_buffer(CriSeen("CRI", CERTS, False, size)).outcome is outcome


def found(**files: str | None) -> Found:
    names = {name.replace("__", "."): text for name, text in files.items()}
    states = {f"{name}/hosts.toml": FileState(text.encode()) for name, text in names.items() if text is not None}
    return Found(states, {name: frozenset() for name in names}, {})


OURS = block(URL, resolve_tags=False)


@pytest.mark.parametrize(
    ("there", "asked", "outcomes"),
    [
        (found(_default=OURS), (), {"_default": FINE}),
        (found(), (), {"_default": PROBLEM}),
        (found(_default=OURS, a__test=None), (), {"_default": FINE, "a.test": PROBLEM}),
        (found(_default=OURS, a__test=OURS), (), {"_default": FINE, "a.test": FINE}),
        (found(_default=OURS, a__test='[host."http://b"]\n' + OURS), (), {"_default": FINE, "a.test": PROBLEM}),
        (found(_default=OURS, a__test="server = "), (), {"_default": FINE, "a.test": PROBLEM}),
        (found(_default=OURS), ("a.test",), {"_default": FINE}),
        (found(_default="# nothing"), ("a.test",), {"_default": PROBLEM}),
        (found(_default=OURS, _backup=None), (), {"_default": FINE}),
    ],
)
def test_hosts_toml(there, asked, outcomes):
    findings = judge_hosts(there, URL, asked)
    assert {finding.check.removeprefix("hosts.toml of "): finding.outcome for finding in findings} == outcomes


def test_how_to_mend_names_all_registries_since_each_configure_replaces_the_set_before():
    there = found(a__test=OURS, b__test_5000_=None)
    mends = {finding.mend for finding in judge_hosts(there, URL, ("b.test:5000",), "/other") if finding.mend}
    registries = "--registry _default --registry b.test:5000 --registry a.test"
    assert mends == {f"fastmirror configure --mirror {URL} --certs-dir /other {registries}"}
    assert {finding.mend for finding in judge_hosts(found(), URL, ())} == {f"fastmirror configure --mirror {URL}"}


def test_a_registry_with_a_port_is_found_by_either_name_of_its_directory():
    there = Found({"a.test_5000_/hosts.toml": FileState(OURS.encode())}, {"a.test_5000_": frozenset()}, {})
    findings = {finding.check: finding for finding in judge_hosts(there, URL, ("a.test:5000",))}
    assert findings["hosts.toml of a.test:5000"].outcome is FINE


def test_a_hosts_toml_that_cannot_be_read_is_unseen():
    there = Found({}, {"_default": frozenset()}, {"_default/hosts.toml": "Permission denied"})
    (finding,) = judge_hosts(there, URL, ())
    assert finding.outcome is Outcome.UNSEEN
    assert "Permission denied" in finding.what


@pytest.mark.parametrize("kind", list(Kind))
def test_the_mirror_and_the_peers(kind):
    outcome = FINE if kind is Kind.OURS else PROBLEM
    assert judge_mirror(URL, Answer(kind, "1.0"), "1.0").outcome is outcome
    assert [finding.outcome for finding in judge_peers({"a:1": Answer(kind, "")})] == [outcome]


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        (Answer(Kind.OURS, "1.0", 200), Outcome.NOTE, "is open"),
        (Answer(Kind.OURS, "1.0", 403), FINE, "asks other nodes for proof"),
        (Answer(Kind.ABSENT, "refused"), UNSEEN, "nothing listens there"),
        (Answer(Kind.FOREIGN, "status 403", 403), UNSEEN, "something else answers"),
    ],
)
def test_it_is_said_whether_strangers_are_served(answer, outcome, said):
    found = judge_peer_listener("0.0.0.0:5001", answer)
    assert found.outcome is outcome
    assert said in found.what
    assert exit_of([found]) is (Exit.UNSEEN if outcome is UNSEEN else Exit.FINE)


def test_a_foreign_port_is_mended_with_the_directory_that_was_looked_at():
    foreign = judge_mirror(URL, Answer(Kind.FOREIGN, "nginx"), "1.0", "/other")
    assert foreign.mend.endswith("fastmirror cleanup --certs-dir /other")


def test_another_version_of_fastmirror_is_fine_and_told():
    assert "this command is 2.0" in judge_mirror(URL, Answer(Kind.OURS, "1.0"), "2.0").what


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (ContentSeen("", None, error="no answer"), UNSEEN),
        (ContentSeen("/c", None, error="Permission denied"), PROBLEM),
        (ContentSeen("/c", (1, 2), "/c", (1, 2)), FINE),
        (ContentSeen("/c", (1, 2), "/d", (1, 3)), PROBLEM),
        (ContentSeen("/c", (1, 2), "/d", None, held=True), FINE),
        (ContentSeen("/c", (1, 2), "/d", None, held=False), PROBLEM),
        (ContentSeen("/c", (1, 2), "/d", None), UNSEEN),
    ],
)
def test_the_content_directory(seen, outcome):
    assert judge_content(seen).outcome is outcome


@pytest.mark.parametrize(
    ("seen", "outcome", "said"),
    [
        (ServedSeen(error="nothing there"), UNSEEN, "nothing there"),
        (ServedSeen("sha256:1", 200, right=True), FINE, "right"),
        (ServedSeen("sha256:1", 200), PROBLEM, "other bytes"),
        (ServedSeen("sha256:1", 404), PROBLEM, "does not have"),
        (ServedSeen("sha256:1", error="refused"), PROBLEM, "refused"),
    ],
)
def test_end_to_end(seen, outcome, said):
    finding = judge_served(seen)
    assert finding.outcome is outcome
    assert said in finding.what


@pytest.mark.parametrize(("seen", "outcome"), [(True, FINE), (False, PROBLEM), (None, UNSEEN)])
def test_the_probe(seen, outcome):
    assert judge_probe(seen, "why", CERTS, "2.1.9").outcome is outcome


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [([], Exit.FINE), ([FINE], Exit.FINE), ([FINE, UNSEEN], Exit.UNSEEN), ([UNSEEN, PROBLEM, FINE], Exit.PROBLEM)],
)
def test_exit_codes(outcomes, code):
    made = [Finding("check", outcome, "what") for outcome in outcomes]
    assert exit_of(made) is code


def test_the_text_has_what_why_and_mend():
    text = doctor.render([Finding("one", FINE, "good"), Finding("two", PROBLEM, "bad", "reason", "remedy")])
    assert text.splitlines() == [
        "ok       one: good",
        "PROBLEM  two: bad",
        "           why:  reason",
        "           mend: remedy",
    ]


GIB = 1 << 30


@pytest.mark.parametrize(
    ("seen", "outcome", "said"),
    [
        (SpoolSeen("/s", 20 * GIB), FINE, "/s may be written; 20.0 GiB are free"),
        (SpoolSeen("/s", 2 * GIB), Outcome.NOTE, "2.0 GiB are free, less than spool_bytes (16.0 GiB)"),
        (SpoolSeen("/s", 4096), PROBLEM, "/s is full: 4 KiB are free"),
        (SpoolSeen("/s", None, "No space left on device", errno.ENOSPC), PROBLEM, "/s is full: No space left"),
        (SpoolSeen("/s", None, "Disk quota exceeded", errno.EDQUOT), PROBLEM, "/s is full: Disk quota"),
        (SpoolSeen("/s", None, "No such file or directory", errno.ENOENT), PROBLEM, "there is no directory /s"),
        (SpoolSeen("/s", None, "Permission denied", errno.EACCES), PROBLEM, "/s cannot be written: Permission denied"),
        (SpoolSeen("/s", None, "Permission denied", errno.EACCES, visible=False), UNSEEN, "may not look at /s"),
    ],
)
def test_the_spool(seen, outcome, said):
    finding = judge_spool(seen, 16 * GIB, 8 << 20)
    assert finding.outcome is outcome
    assert said in finding.what
    assert (outcome is FINE) == (not finding.why and not finding.mend)


def test_looking_at_the_spool_leaves_nothing_and_makes_nothing(tmp_path: Path) -> None:
    seen = look_at_spool(str(tmp_path))
    assert seen.free is not None
    assert os.listdir(tmp_path) == []
    missing = look_at_spool(str(tmp_path / "none"))
    assert (missing.free, missing.code) == (None, errno.ENOENT)
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").write_text("")
    assert look_at_spool(str(tmp_path / "file")).code == errno.ENOTDIR


def test_the_spool_that_is_looked_at_is_the_one_of_the_settings() -> None:
    fetch = FetchSettings(spool_dir="/srv/spool", spool_bytes=GIB)
    given = {"certs_dir": CERTS, "containerd_config": "/c", "mirror": None, "registries": (), "probe": False}
    asked = doctor.questions(Settings(stores=StoreSettings(store=("content:/c",)), fetch=fetch), **given)
    assert (asked.spool, asked.spool_bytes, asked.least_bytes) == ("/srv/spool", GIB, fetch.whole_bytes)


@pytest.mark.parametrize(
    ("listed", "kubelets", "outcome"), [(5, None, FINE), (0, None, FINE), (0, 0, FINE), (0, 7, PROBLEM)]
)
def test_a_namespace_without_content_beside_one_that_has_some(listed, kubelets, outcome):
    finding = judge_namespace("default", listed, kubelets)
    assert finding.outcome is outcome
    assert ("containerd_namespace to k8s.io" in finding.mend) == (outcome is PROBLEM)


def node(state: str, failure: str = "") -> PeerRow:
    trip = 0.0012 if state == "live" else None
    return PeerRow("12D3", "node-b", "", "10.0.0.2:5001", state, "", trip, 3, 1.0, failure, None)


def test_nodes_that_the_router_knows_are_judged_by_their_state() -> None:
    live, lost, left = judge_nodes([node("live"), node("lost", "connect timeout"), node("left")])
    assert (live.outcome, live.what) == (FINE, "10.0.0.2:5001 is live, 1.2 ms away")
    assert (lost.outcome, lost.what) == (PROBLEM, "10.0.0.2:5001 is lost: connect timeout")
    assert left.outcome is Outcome.NOTE
    (other,) = judge_nodes([node("not fastmirror")])
    assert (other.outcome, other.what) == (PROBLEM, "10.0.0.2:5001 is not fastmirror")
    assert [finding.outcome for finding in judge_nodes([])] == [PROBLEM]
    assert [finding.outcome for finding in judge_nodes([node("left")])] == [Outcome.NOTE, PROBLEM]
    assert [finding.what for finding in judge_nodes("no node answers")] == ["no node answers"]


def doctor_says(*line: str) -> dict[str, Finding]:
    done = subprocess.run(
        [sys.executable, "-m", "fastmirror", "doctor", "-o", "json", *line],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return {one.check: one for one in msgspec.json.decode(done.stdout, type=list[Finding])}


def test_the_running_node_is_asked_for_its_peers_and_containerd_only_where_a_store_is_its(tmp_path: Path) -> None:
    down = f"127.0.0.1:{free_port('127.0.0.1')}"
    with start(tmp_path / "one") as other, start(tmp_path / "two", peers=["{}:{}".format(*other.peer), down]) as node:
        admin, mirror = "{}:{}".format(*node.admin), "http://{}:{}".format(*node.registry)
        line = ("--admin-addr", admin, "--mirror", mirror, "--certs-dir", os.path.relpath(tmp_path))
        said = doctor_says("--store", f"oci:{tmp_path / 'layout'}", *line)
    assert said["containerd"].what == "not seen: the store is an OCI layout"
    assert "config_path" not in said
    assert said["peer {}:{}".format(*other.peer)].outcome is FINE
    assert said[f"peer {down}"].what == f"{down} is down: unreachable"
    assert f"--certs-dir {tmp_path}" in said["hosts.toml of _default"].mend
