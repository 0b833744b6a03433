"""A certs.d directory on disk: read whole, changed file by file, each replaced at once; and the record beside it.

The record is written before the files, so that a crash in between leaves nothing that cannot be given back.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from fastmirror.containerd.hosts import FILE
from fastmirror.containerd.plan import KEPT_SUFFIX, FileState, Found, Plan, Record, Remark, Step
from fastmirror.errors import CertsError

RECORD: Final = ".fastmirror-record.json"  # containerd looks for directories named after registries only
_MAX_BYTES: Final = 1 << 20


class _Ledger(msgspec.Struct):
    """The record as it is written; ``made`` says that certs.d itself is ours."""

    entries: Record
    made: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Ledger)


class CertsDirectory:
    """One certs.d. Every method raises CertsError that names the path when the system refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other configures and cleanups out; makes the directory if it is not there.

        Takes away what one that was killed had not finished.
        """
        try:
            fd = self._lock()
        except OSError as error:
            raise self._refused(self.path, "used", error) from error
        try:
            self._sweep()
            yield
        finally:
            os.close(fd)

    def _lock(self) -> int:
        while True:
            if not self.path.exists():
                self.path.mkdir(mode=0o755, parents=True)
                self._made = True
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                with contextlib.suppress(FileNotFoundError):  # the cleanup that had the lock took the directory away
                    if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                        return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _sweep(self) -> None:
        names = [RECORD, *(f"{name}/{file}" for name in os.listdir(self.path) for file in (FILE, FILE + KEPT_SUFFIX))]
        for name in names:
            with contextlib.suppress(OSError):  # none is there, or none can be
                _temporary(self.path / name).unlink()

    def find(self) -> Found:
        """Every hosts.toml, and what else is beside it. A missing directory has none.

        What cannot be read is told as such: it matters only to who wants to change it.
        """
        found = Found({}, {}, {})
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return found
        except OSError as error:
            raise self._refused(self.path, "listed", error) from error
        for name in names:
            directory, path = self.path / name, f"{name}/{FILE}"
            if not name.isprintable() or not directory.is_dir():  # no registry has such a name
                continue
            found.directories[name] = frozenset()
            try:
                found.directories[name] = frozenset(os.listdir(directory))
                state = _read(directory / FILE)
            except OSError as error:
                found.unreadable[path] = error.strerror or str(error)
                continue
            if state is not None:
                found.files[path] = state
        return found

    def record(self) -> Record:
        """What was done before; empty if nothing was."""
        path = self.path / RECORD
        try:
            ledger = _decoder.decode(path.read_bytes())
        except FileNotFoundError:
            return {}
        except NotADirectoryError as error:
            raise self._refused(self.path, "used", error) from error
        except OSError as error:
            raise self._refused(path, "read", error) from error
        except msgspec.DecodeError as error:
            raise CertsError(f"certs-dir: {path} is damaged ({error}); what was before is base64 text in it") from None
        self._made = self._made or ledger.made
        return ledger.entries

    def apply(self, plan: Plan, before: Record) -> None:
        """Carry a plan out. What was done before an error stays in the record.

        Adds a remark to the plan for each file whose owner is another than it should be: only root gives files away.
        """
        if not plan.steps and plan.record == before:
            return
        if not plan.record.items() <= before.items():  # giving back needs no room on a full disk
            self._save({**before, **plan.record})
        for step in plan.steps:
            try:
                owned = self._take(step)
            except OSError as error:
                raise self._refused(self.path / step.path, "written", error) from error
            if not owned and step.after is not None:
                plan.remarks.append(_foreign(step.path, step.after, restored=step.path not in plan.record))
        self._save(plan.record)

    def _take(self, step: Step) -> bool:
        """Do it; whether the file has the owner that it should have."""
        path = self.path / step.path
        if step.after is None:
            path.unlink(missing_ok=True)
            _sync(path.parent)
            if step.directory:
                with contextlib.suppress(OSError):  # somebody put something there: it stays
                    path.parent.rmdir()
            return True
        made = not path.parent.exists()
        path.parent.mkdir(mode=0o755, exist_ok=True)
        try:
            return _replace(path, step.after)
        except OSError:
            if made:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
            raise

    def _save(self, record: Record) -> None:
        path = self.path / RECORD
        try:
            if record:
                content = _encoder.encode(_Ledger(record, self._made))
                _replace(path, FileState(content, 0o600))
                return
            path.unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):  # it has come to hold something of others
                    self.path.rmdir()
        except OSError as error:
            raise self._refused(path, "written", error) from error

    def _refused(self, path: Path, what: str, error: OSError) -> CertsError:
        return CertsError(f"certs-dir: {path} cannot be {what}: {error.strerror}")


def _foreign(path: str, state: FileState, *, restored: bool) -> Remark:
    owner = f"{state.uid}:{state.gid}"
    if restored:
        text = f"has its bytes and its mode back but not its owner, which only root can give: chown {owner} as root"
        return Remark("problem", path, text)
    text = f"belonged to {owner} and is this user's now; only a cleanup by root gives its owner back"
    return Remark("note", path, text)


def _read(path: Path) -> FileState | None:
    """The file, or None; what is neither a file nor a link is not containerd's either. A link may lead nowhere."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
    content = b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if link is None:
            return None
    else:
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(0, "it is not a file")
            with open(fd, "rb", closefd=False) as file:
                content = file.read(_MAX_BYTES + 1)
        finally:
            os.close(fd)
    if len(content) > _MAX_BYTES:
        raise OSError(0, "it is larger than 1 MiB")
    return FileState(content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, link)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.fastmirror"


def _replace(path: Path, state: FileState) -> bool:
    """Put a file in place so that a reader sees the old one or the new one, whole; whether its owner is right."""
    temporary = _temporary(path)
    try:
        if state.link is not None:
            os.symlink(state.link, temporary)
            owned = _give(temporary, state)
            if state.mtime_ns is not None:
                os.utime(temporary, ns=(state.mtime_ns, state.mtime_ns), follow_symlinks=False)
        else:
            owned = _write(temporary, state)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    return owned


def _write(path: Path, state: FileState) -> bool:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(state.content)
        file.flush()
        owned = _give(path, state)
        os.fchmod(fd, state.mode)  # after the owner, whose change takes set-id bits away
        os.fsync(fd)
    if state.mtime_ns is not None:
        os.utime(path, ns=(state.mtime_ns, state.mtime_ns))
    return owned


def _give(path: Path, state: FileState) -> bool:
    """Give a file we just made to whom it should belong; False if that is for root alone, chown(2)."""
    status = os.lstat(path)
    if state.uid is None or state.gid is None or (status.st_uid, status.st_gid) == (state.uid, state.gid):
        return True
    try:
        os.chown(path, state.uid, state.gid, follow_symlinks=False)
    except PermissionError:
        return False
    return True


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def diff(plan: Plan) -> str:
    """The plan's steps as a unified diff."""
    pieces: list[str] = []
    for step in plan.steps:
        before = "" if step.before is None else step.before.content.decode("utf-8", "replace")
        after = "" if step.after is None else step.after.content.decode("utf-8", "replace")
        old = "/dev/null" if step.before is None else step.path
        new = "/dev/null" if step.after is None else step.path
        lines = difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), old, new)
        pieces += [line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines]
    return "".join(pieces)
