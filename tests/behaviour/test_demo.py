"""``python -m demo``: the table says where each byte came from, and the exit status whether it was as promised."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo import cluster, images, report
from fastmirror.oci.descriptor import OCTET_STREAM, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from tests.kit.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
IMAGE_MIB = 16  # the layer that a node is killed in must be larger than what is verified whole (8 MiB)

pytestmark = pytest.mark.timeout(120)


real_containerds = pytest.mark.needs("root", "containerd", "ip", "unshare", "nsenter", "setpriv")


def _command(work: Path, *more: str, client: str = "plain") -> list[str]:
    more = ("--client", client, *more)
    small = ["--work", str(work), "--source", "files", "--mebibytes", str(IMAGE_MIB), "--link-rate", "30"]
    return [sys.executable, "-m", "demo", *small, *more]


def _demo(work: Path, *more: str, client: str = "plain") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(work, *more, client=client), cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )


def _rows(output: str) -> list[dict[str, float]]:
    """The table's rows: MiB by source. Fails if there is no table."""
    rows = []
    for line in output.splitlines():
        match = re.match(r"(\d) .{38}((?:\s+(?:-|[\d.]+ [KM]iB)){4})\s+[\d.]+(?:\s+(?:\d+ ms|-))?$", line)
        if match:
            cells = re.findall(r"-|[\d.]+ [KM]iB", match[2])
            rows.append(dict(zip(("origin", "A", "B", "C"), map(_mebibytes, cells), strict=True)))
    return rows


def _mebibytes(cell: str) -> float:
    if cell == "-":
        return 0.0
    number, unit = cell.split()
    return float(number) / (1024 if unit == "KiB" else 1)


def _processes(work: Path) -> list[str]:
    """Command lines of all processes that use ``work``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # no process, or it ended
        if str(work) in line:
            found.append(line)
    return found


def test_demo_pulls_from_nodes_through_a_death_and_without_the_origin(tmp_path: Path) -> None:
    done = _demo(tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    first, second, third, fourth, fifth = _rows(done.stdout)
    size = first["origin"]
    assert size > IMAGE_MIB
    assert second["origin"] == third["origin"] == fourth["origin"] == fifth["origin"] == 0
    assert second["A"] == pytest.approx(size, abs=0.2)
    assert third["A"] + third["B"] == pytest.approx(size, abs=2)
    assert fourth["A"] + fourth["B"] == pytest.approx(size, abs=2)
    assert min(fourth["A"], fourth["B"]) > 1, "one of the two gave nothing: nobody was killed in mid-layer"
    assert fifth["A"] + fifth["B"] + fifth["C"] == pytest.approx(size, abs=0.2)
    assert re.search(r"the death of node [AB] cost \d+ ms: [\d.]+ s with one source less, instead of ", done.stdout)
    assert "1.00 times the image" in done.stdout
    assert "12 blobs on the nodes' disks were read again: every digest is right" in done.stdout
    assert "\r" not in done.stdout, "carriage returns are for terminals"
    assert not _processes(tmp_path)


@real_containerds
def test_demo_with_real_containerds_pulls_through_a_death_with_the_origin_off(tmp_path: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    done = _demo(tmp_path, client="containerd")
    assert done.returncode == 0, done.stdout + done.stderr
    first, second, third, fourth = _rows(done.stdout)
    size = first["origin"]
    assert size > IMAGE_MIB
    assert second["origin"] == third["origin"] == fourth["origin"] == 0
    assert second["A"] == pytest.approx(size, abs=0.2)
    assert min(fourth["A"], fourth["B"]) > 1, "one of the two gave nothing: nobody was killed in mid-layer"
    assert re.search(r"the death of node [AB] cost \d+ ms", done.stdout)
    assert "12 blobs on the nodes' disks were read again: every digest is right" in done.stdout
    assert not _processes(tmp_path)
    assert Path("/proc/self/mounts").read_text() == mounts


@real_containerds
def test_demo_with_real_containerds_leaves_nothing_even_when_it_is_killed(tmp_path: Path) -> None:
    mounts, output = Path("/proc/self/mounts").read_text(), tmp_path / "output"
    with output.open("wb") as stdout:
        command = _command(tmp_path, "--origin-rate", "2", client="containerd")
        demo = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stdout, start_new_session=True)
    try:
        eventually(lambda: "25 %" in output.read_text(), "a pull under way", seconds=40)
    finally:
        demo.kill()
        demo.wait()
    eventually(lambda: not _processes(tmp_path), "the nodes have ended too")
    assert Path("/proc/self/mounts").read_text() == mounts


def test_the_table_has_no_column_for_what_is_not_seen_and_a_death_that_cost_nothing_is_explained() -> None:
    calm = report.Row("C pulls", "C", {"A": 1 << 20}, 1.5, layer_seconds=1.0)
    deadly = report.Row("C pulls again", "C", {"A": 1 << 20}, 1.75, layer_seconds=0.9, killed="A")
    head, _, *lines = report.table([calm, deadly], "AB")
    assert head.split() == ["step", "A", "B", "seconds"]
    assert [line.split()[-1] for line in lines] == ["1.50", "1.75"]
    assert report.table([report.Row("", "C", gap=0.02)], "AB")[0].endswith("gap")
    layer = Descriptor(OCTET_STREAM, Digest.of(b""), 1 << 20)
    image = images.Image(Reference("registry.example", "app", "1"), Path(), layer, layer, (layer,))
    said = report.summary([calm, deadly], image, 0, 0)[0]
    assert said == (
        "the death of node A cost 0 ms: the layer took 0.90 s with one source less, instead of 1.00 s; the whole pull "
        "1.75 s instead of 1.50 s; what it had not given yet came from the others meanwhile"
    )


async def test_a_node_of_the_demo_that_does_not_start_is_told_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import os; raise SystemExit(os.environ.get('FASTMIRROR_APT', 'no luck'))"]
    monkeypatch.setattr(cluster.Node, "_command", lambda node: command)
    monkeypatch.setenv("FASTMIRROR_APT", "no")
    with pytest.raises(cluster.NodeFailed, match="did not start: no luck"):
        async with cluster.Cluster("AB", tmp_path, 1e6):
            pass


def test_demo_fails_when_the_origin_lies_about_one_byte(tmp_path: Path) -> None:
    done = _demo(tmp_path, "--wrong-byte")
    assert done.returncode == 1
    assert "FAILED: expected sha256:" in done.stdout
    assert "every digest is right" not in done.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_demo_leaves_no_process_when_it_is_interrupted(tmp_path: Path, number: signal.Signals, status: int) -> None:
    output = tmp_path / "output"
    with output.open("wb") as stdout:
        demo = subprocess.Popen(
            _command(tmp_path, "--origin-rate", "2"), cwd=ROOT, stdout=stdout, stderr=stdout, start_new_session=True
        )
    try:
        eventually(lambda: "25 %" in output.read_text(), "a pull under way", seconds=40)
        assert len(_processes(tmp_path)) == 4, "the demo and three nodes"
        demo.send_signal(number)
        assert demo.wait(20) == status
    finally:
        demo.kill()
        demo.wait()
    assert not _processes(tmp_path)
    assert "Traceback" not in output.read_text()
