"""The image and the chart's pods in real containerds: one node of each generation, each in a network of its own."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.built import Built
from tests.kit.containerd import Pulled, containerd, generations, write_hosts
from tests.kit.images import Image, make_image
from tests.kit.layout import Layout
from tests.kit.member import Cluster, Member, doctor, outcomes, rendered
from tests.kit.netns import places
from tests.kit.origin import origin
from tests.kit.pod import Container, PodNode
from tests.kit.waiting import eventually

pytestmark = [
    pytest.mark.needs("root", "buildah", "mmdebstrap", "skopeo", "containerd", "runc", "ip", "nsenter"),
    pytest.mark.timeout(600),
]

NODES = 3
PEERS_NAME = "fastmirror-peers.fastmirror.svc.cluster.local"
CLEANUP_NAME = "fastmirror-cleanup.fastmirror.svc.cluster.local"


@pytest.fixture(scope="module")
def cluster(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with the chart's pod running, oldest containerd first."""
    found = (generations() * NODES)[:NODES] if len(generations()) < NODES else generations()[-NODES:]
    directory = tmp_path_factory.mktemp("cluster")
    with contextlib.ExitStack() as stack:
        *made, registry = stack.enter_context(places(NODES + 1))
        layout = Layout(directory / "origin")
        source = stack.enter_context(origin(layout, registry.host, 5000, directory / "log", registry.prefix))
        names = {name: [place.host for place in made] for name in (PEERS_NAME, CLEANUP_NAME)}
        members = []
        for number, (generation, place) in enumerate(zip(found, made, strict=True)):
            # not `ip netns exec`: it hides the cgroups, which containers need
            prefix = ("nsenter", f"--net=/run/netns/{place.name}", "--")
            node = stack.enter_context(containerd(generation, prefix=prefix))
            write_hosts(node, "registry.test", [], source.url)
            member = Member(PodNode(node, built, f"node-{number}", names), rendered(node))
            member.before = member.files()
            stack.callback(lambda member=member: [container.stop() for container in member.running])
            members.append(member)
        for member in members:
            member.start()
        made_cluster = Cluster(members, source)
        eventually(made_cluster.linked, "the mirrors found each other by the Service's name", 60, 0.5)
        yield made_cluster


def test_what_runs_has_no_right_at_all(cluster: Cluster) -> None:
    for member in cluster.members:
        for pid in member.mirror.pids():
            status = Path(f"/proc/{pid}/status").read_text()
            said = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert said["Uid"].split() == ["65532"] * 4
            assert said["Gid"].split() == ["0"] * 4
            assert int(said["CapEff"], 16) == int(said["CapPrm"], 16) == int(said["CapBnd"], 16) == 0
            assert said["NoNewPrivs"] == "1"
            assert said["Seccomp"] == "2"


_ASK = "import sys, urllib.request as u; u.urlopen(u.Request(sys.argv[1], method='HEAD'), timeout=10)"


def knows(member: Member, image: Image) -> bool:
    """Whether this node's mirror answers the image's tag."""
    repository, _, tag = image.name.partition("/")[2].rpartition(":")
    url = f"http://127.0.0.1:5000/v2/{repository}/manifests/{tag}?ns=registry.test"
    return member.mirror.exec("/usr/bin/python3", "-I", "-c", _ASK, url).returncode == 0


def test_an_image_pulled_on_one_node_comes_from_it_with_the_origin_off(cluster: Cluster) -> None:
    """By tag and by digest; the registry answers nothing any more."""
    image = make_image("registry.test/t/cross:1", (20_000, 9_000_000), seed="cross")
    cluster.publish(image)
    first, *others = cluster.members
    pulled = first.containerd.pull("cri", image.name)
    assert pulled, pulled
    cluster.origin.off()
    try:
        for member in others:
            eventually(lambda member=member: knows(member, image), "its mirror has heard of the tag", 20, 0.2)
            pulled = member.containerd.pull("cri", image.name)
            assert pulled, pulled
            assert member.containerd.has(image.blobs)
            member.containerd.remove(image.name)
            eventually(lambda member=member: not member.containerd.has(image.blobs), "the image is gone")
            pulled = member.containerd.pull("cri", f"registry.test/t/cross@{image.digest}")
            assert pulled, pulled
    finally:
        cluster.origin.on()


def test_doctor_in_the_pod_says_that_all_is_well(cluster: Cluster) -> None:
    image = make_image("registry.test/t/doctor:1", seed="doctor")
    cluster.publish(image)
    for member in cluster.members:
        assert member.containerd.pull("cri", image.name)
    for member in cluster.members:
        said = outcomes(member)
        assert set(said.values()) <= {"fine", "note"}, doctor(member)
        assert sum(check.startswith("peer node-") for check in said) == NODES - 1


def test_doctor_in_the_pod_says_what_is_wrong(cluster: Cluster) -> None:
    member = cluster.members[0]
    node = member.containerd
    other = node.directory / "other"
    (other / "blobs" / "sha256").mkdir(parents=True)
    store = f"containerd:{node.socket},content={other}"
    assert outcomes(member, "--store", store)["content"] == "problem"
    assert outcomes(member, "--store", f"containerd:{node.directory}/none.sock")["containerd"] == "problem"
    assert outcomes(member, "--certs-dir", str(other))["config_path"] == "problem"
    assert outcomes(member, "--mirror", "http://127.0.0.1:5003")["mirror"] == "problem"
    hidden = node.certs / "hidden.test"
    hidden.mkdir()
    assert outcomes(member)["hosts.toml of hidden.test"] == "problem"
    hidden.rmdir()
    node.socket.chmod(0o600)
    try:
        code, said = doctor(member)
        assert code == 1
        assert "may not be used by this user" in said["containerd"]["what"]
    finally:
        node.socket.chmod(0o660)


def test_doctor_in_the_pod_says_what_is_wrong_with_containerds_settings(cluster: Cluster) -> None:
    """In a file of its own, on the newest containerd: an older one tells its settings itself, and they are right."""
    member = cluster.members[-1]
    file = member.containerd.directory / "planted.toml"
    plugin = "plugins.'io.containerd.cri.v1.images'"
    file.write_text(f"version = 3\n[{plugin}]\ndiscard_unpacked_layers = true\n[{plugin}.registry]\nconfig_path = ''\n")
    said = doctor(member, "--containerd-config", str(file))[1]
    assert said["discard_unpacked_layers"]["outcome"] == "problem"
    assert "layers are discarded" in said["discard_unpacked_layers"]["what"]
    assert said["config_path"]["outcome"] == "problem"
    assert "config_path is empty" in said["config_path"]["what"]


def test_doctor_in_the_pod_says_that_the_namespace_is_the_wrong_one(cluster: Cluster) -> None:
    said = doctor(cluster.members[0], "--containerd-namespace", "moby")[1]
    assert said["namespace"]["outcome"] == "problem"
    assert "namespace moby has no content, k8s.io has" in said["namespace"]["what"]


def test_doctor_in_the_pod_says_that_hosts_toml_was_edited(cluster: Cluster) -> None:
    """In a copy: the sidecar looks after the real one."""
    member = cluster.members[0]
    edited = member.containerd.directory / "edited"
    shutil.copytree(member.containerd.certs, edited)
    file = edited / "registry.test" / "hosts.toml"
    ours = file.read_text()
    for text, what in (
        ("[host.'http://127.0.0.1:9']\n" + ours.replace("server", "# server"), "before the mirror"),
        (ours.replace("http://127.0.0.1:5000", "http://127.0.0.1:5555"), "does not name http://127.0.0.1:5000"),
        (ours.replace("[host", "host", 1), "cannot be read"),
    ):
        file.write_text(text)
        found = doctor(member, "--certs-dir", str(edited))[1]["hosts.toml of registry.test"]
        assert found["outcome"] == "problem"
        assert what in found["what"]


def test_doctor_in_the_pod_says_that_the_spool_is_full(cluster: Cluster) -> None:
    """On a small file system that the container has: /dev/shm."""
    member = cluster.members[0]
    assert outcomes(member)["spool"] in ("fine", "note")
    large = Path("/proc", str(member.mirror.pids()[0]), "root", "dev", "shm", "large")
    with large.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 60 << 20)
    try:
        found = doctor(member, "--spool-dir", "/dev/shm")[1]["spool"]
    finally:
        large.unlink()
    assert found["outcome"] == "problem"
    assert "/dev/shm is full" in found["what"]
    assert outcomes(member, "--spool-dir", "/var/spool/none")["spool"] == "problem"


@pytest.fixture(scope="module")
def rolled(cluster: Cluster) -> list[Pulled]:
    """Restarts one node's pod after the other while others and it pull; what became of the pulls.

    A fixture, since the new pods outlive the test.
    """
    images = [make_image(f"registry.test/t/roll{n}:1", (20_000, 12_000_000), seed=f"roll{n}") for n in range(3)]
    for image in images:
        cluster.publish(image)
        assert cluster.members[0].containerd.pull("cri", image.name)
    pulled = []
    for member, image in zip(cluster.members, images, strict=True):
        puller = cluster.members[1] if member is cluster.members[0] else member
        other = next(one for one in cluster.members if one not in (puller, cluster.members[0]))
        with contextlib.ExitStack() as stack:
            pulling = [stack.enter_context(one.containerd.pulling("cri", image.name)) for one in (puller, other)]
            member.stop()
            member.start()
            pulled += [running.wait() for running in pulling]
        eventually(cluster.linked, "the mirrors are together again", 60, 0.5)
    return pulled


def test_a_rolling_restart_during_pulls_loses_none(rolled: list[Pulled]) -> None:
    assert len(rolled) == 6
    assert all(rolled), rolled


def plant_spegel(member: Member) -> None:
    """What Spegel leaves: its files in place, and what was there before it in _backup."""
    certs = member.containerd.certs
    shutil.copytree(certs / "registry.test", certs / "_backup" / "registry.test")
    (certs / "_default").mkdir()
    text = "[host.'http://10.0.0.5:30020']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n"
    (certs / "_default" / "hosts.toml").write_text(text)


def plant_own(member: Member) -> None:
    """An administrator's files, one with a mode of its own, one a link."""
    own = member.containerd.certs / "docker.io"
    own.mkdir()
    (own / "ca.crt").write_text("certificate")
    (own / "mine.toml").write_text('# mine\nserver = "https://registry-1.docker.io"\n')
    (own / "hosts.toml").symlink_to("mine.toml")


@pytest.fixture(scope="module")
def planted(cluster: Cluster) -> dict[str, dict[str, bytes]]:
    """What certs.d of each node must be after the removal. The nodes started from nothing but the registry's own file,
    from Spegel's files and from an administrator's; one file was edited after we had written it.
    """
    for member in cluster.members:
        member.stop()
        shutil.rmtree(member.containerd.certs)
        member.containerd.certs.mkdir()
        write_hosts(member.containerd, "registry.test", [], cluster.origin.url)
    first, second, third = cluster.members
    plant_spegel(first)
    plant_own(second)
    state = {member.node.name: member.files() for member in cluster.members}
    for member in cluster.members:
        member.start()
    edited = third.containerd.certs / "registry.test" / "hosts.toml"
    edited.write_text(edited.read_text() + "# by hand\n")
    state[third.node.name]["registry.test/hosts.toml"] += b"# by hand\n"
    return state


@contextlib.contextmanager
def uninstalling(cluster: Cluster, timeout: str) -> Iterator[Container]:
    """What `helm uninstall` runs when the rest is gone: the hook's pod on each node, and its job, which is given."""
    with contextlib.ExitStack() as stack:
        for member in cluster.members:
            stack.enter_context(member.node.run(member.pod(name="fastmirror-cleanup"), "cleanup"))
        pod = copy.deepcopy(cluster.members[0].pod("Job", "fastmirror-cleanup"))
        arguments = pod["containers"][0]["args"]
        assert "--timeout=5m" in arguments
        pod["containers"][0]["args"] = [text.replace("--timeout=5m", f"--timeout={timeout}") for text in arguments]
        yield stack.enter_context(cluster.members[0].node.run(pod, "wait"))


@pytest.fixture(scope="module")
def alone(cluster: Cluster, planted: dict[str, dict[str, bytes]]) -> Member:
    """The first node's pod, which still runs when the others are gone."""
    late, *others = cluster.members
    for member in others:
        member.stop()
    return late


def test_doctor_in_the_pod_says_that_no_other_node_is_reached(alone: Member) -> None:
    eventually(lambda: not any(peer["state"] == "live" for peer in alone.peers()), "nobody is there any more", 60, 0.5)
    code, said = doctor(alone)
    assert code == 1
    peers = [finding for check, finding in said.items() if check.startswith("peer") and check != "peer listener"]
    assert peers
    assert any(finding["outcome"] == "problem" for finding in peers), said
    assert all(finding["mend"] for finding in peers if finding["outcome"] == "problem")


def test_a_node_where_the_mirror_still_runs_is_waited_for_and_named(cluster: Cluster, alone: Member) -> None:
    with uninstalling(cluster, "8s") as job:
        assert job.wait(120) == 1
        said = "\n".join(job.log.lines)
    assert "2 nodes are done" in said
    assert "node-0 (fastmirror still answers at http://127.0.0.1:5000: its pod must end first)" in said
    assert b"127.0.0.1:5000" in alone.files()["registry.test/hosts.toml"]


def test_uninstalling_gives_every_nodes_files_back(cluster: Cluster, planted: dict[str, dict[str, bytes]]) -> None:
    for member in cluster.members:
        member.stop()
    with uninstalling(cluster, "60s") as job:
        assert job.wait(120) == 0, job.log.lines
        said = [line.partition(";")[0] for line in job.log.lines if line.startswith("node-")]
    assert sorted(said) == [f"node-{number}: done" for number in range(NODES)]
    assert {member.node.name: member.files() for member in cluster.members} == planted
    assert (cluster.members[1].containerd.certs / "docker.io" / "hosts.toml").is_symlink()
