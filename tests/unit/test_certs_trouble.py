"""configure and cleanup where something is in the way: odd files, kills, full disks, others, missing rights."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmirror.containerd.certs import RECORD, CertsDirectory
from fastmirror.containerd.configure import give_back, write
from fastmirror.errors import CertsError
from tests.kit.waiting import eventually
from tests.unit.test_certs_directory import TREE, URL, Tree, remarks, wanted


def test_a_link_that_leads_nowhere_is_given_back(tmp_path):
    tree = Tree(tmp_path, {"docker.io/ca.crt": "certificate"})
    (tmp_path / "docker.io/hosts.toml").symlink_to("/nowhere/hosts.toml")
    before = tree.state()
    write(tmp_path, wanted("docker.io"))
    assert URL in tree.text("docker.io/hosts.toml")
    give_back(tmp_path)
    assert tree.state() == before


@pytest.mark.parametrize("kind", ["directory", "fifo", "too large"])
def test_a_hosts_toml_that_cannot_be_read_is_left_and_hinders_no_other(tmp_path, kind):
    path = tmp_path / "docker.io/hosts.toml"
    path.parent.mkdir()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"#" * (2 << 20))
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    plan = write(tmp_path, wanted("docker.io", "_default"))
    assert [remark.partition(" (")[0] for remark in remarks(plan)] == ["problem docker.io/hosts.toml: cannot be read"]
    assert URL in (tmp_path / "_default/hosts.toml").read_text()
    give_back(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["docker.io", os.fsdecode(b"\xff")]


class Killed(BaseException):
    """As SIGKILL: what follows does not run, and neither does what tidies up."""


@contextlib.contextmanager
def killed_before(patch: pytest.MonkeyPatch, number: int) -> Iterator[None]:
    """The process dies just before that change of the disk, or look at it."""
    calls = 0

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Killed
            return real(*arguments, **more)

        return call

    with patch.context() as within:
        for name in ("rename", "open", "fsync"):
            within.setattr(f"fastmirror.containerd.certs.os.{name}", counted(getattr(os, name)))
        for name in ("unlink", "rmdir", "mkdir"):
            within.setattr(f"fastmirror.containerd.certs.Path.{name}", counted(getattr(Path, name)))
        yield


@pytest.mark.parametrize("command", ["configure", "cleanup"])
def test_after_a_kill_at_any_moment_cleanup_gives_everything_back(tmp_path, monkeypatch, command):
    for number in itertools.count(1):
        path = tmp_path / str(number)
        path.mkdir()
        tree = Tree(path, TREE)
        before = tree.state()
        if command == "cleanup":
            write(path, wanted("docker.io", "new.example", "_default"))
        try:
            with killed_before(monkeypatch, number):
                if command == "configure":
                    write(path, wanted("docker.io", "new.example", "_default"))
                else:
                    give_back(path)
        except Killed:
            assert give_back(path).remarks == []
            assert tree.state() == before
        else:
            break
    assert number > 20


def test_a_full_disk_changes_nothing_that_is_not_in_the_record(tmp_path, monkeypatch):
    tree = Tree(tmp_path, TREE)
    before = tree.state()
    real, calls = os.fsync, 0

    def full(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2:  # the record, its directory, and then the first file
            raise OSError(28, "No space left on device")
        real(fd)

    with monkeypatch.context() as patch:
        patch.setattr("fastmirror.containerd.certs.os.fsync", full)
        with pytest.raises(CertsError, match=r"new.example/hosts.toml cannot be written: No space left"):
            write(tmp_path, wanted("new.example"))
    assert not (tmp_path / "new.example").exists(), "an empty directory would hide _default"
    give_back(tmp_path)
    assert tree.state() == before


def test_cleanup_removes_what_is_ours_from_a_full_disk(tmp_path, monkeypatch):
    certs = tmp_path / "certs.d"
    write(certs, wanted("docker.io", "new.example"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fastmirror.containerd.certs._write", full)
        assert give_back(certs).remarks == []
    assert not certs.exists()


def test_a_directory_that_a_cleanup_took_away_meanwhile_is_made_again(tmp_path):
    """Two at once: the second waits for the lock of a directory that is gone when it gets it."""
    certs = tmp_path / "certs.d"
    first, second = CertsDirectory(certs), []
    with first.locked():
        waiter = threading.Thread(target=lambda: second.append(write(certs, wanted("docker.io"))))
        waiter.start()
        eventually(lambda: _waits(certs), "the second one waits")
        certs.rmdir()
    waiter.join(10)
    assert second
    assert URL in (certs / "docker.io/hosts.toml").read_text()


def _waits(path: Path) -> bool:
    inode = path.stat().st_ino
    return any("->" in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


@pytest.mark.needs("root")
def test_who_is_not_root_is_told_that_owners_are_not_given_back(tmp_path):
    """Only root may give a file away, chown(2)."""
    tree = Tree(tmp_path, {"docker.io/hosts.toml": TREE["docker.io/hosts.toml"]})
    os.chown(tmp_path / "docker.io/hosts.toml", 1234, 4321)
    for path in (tmp_path, tmp_path / "docker.io"):
        os.chown(path, 65534, 65534)
    was = Path.cwd()
    os.chdir(tmp_path)  # pytest's own directories above let only root through
    try:
        os.setegid(65534)
        os.seteuid(65534)
        done, undone = write(Path(), wanted("docker.io")), give_back(Path())
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.chdir(was)
    (note,), (problem,) = remarks(done), remarks(undone)
    assert note.startswith("note docker.io/hosts.toml: belonged to 1234:4321 and is this user's now")
    assert problem.startswith("problem docker.io/hosts.toml: has its bytes and its mode back but not its owner")
    assert problem.endswith("chown 1234:4321 as root")
    assert tree.text("docker.io/hosts.toml") == TREE["docker.io/hosts.toml"]


@pytest.mark.parametrize("content", [b"{}", b"not json"])
def test_a_damaged_record_is_told_and_nothing_is_changed(tmp_path, content):
    tree = Tree(tmp_path, TREE)
    (tmp_path / RECORD).write_bytes(content)
    before = tree.state()
    with pytest.raises(CertsError, match="is damaged"):
        write(tmp_path, wanted("docker.io"))
    assert tree.state() == before
