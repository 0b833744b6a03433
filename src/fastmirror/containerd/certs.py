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
from fastmirror.containerd.plan import FileState, Found, Plan, Record, Step
from fastmirror.errors import ConfigError

RECORD: Final = ".fastmirror-record.json"  # containerd looks for directories named after registries only
_MAX_BYTES: Final = 1 << 20


class _Ledger(msgspec.Struct):
    """The record as it is written; ``made`` says that certs.d itself is ours."""

    entries: Record
    made: bool = False


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Ledger)


class CertsDirectory:
    """One certs.d. Every method raises ConfigError that names the path when the system refuses."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other configures and cleanups out; makes the directory if it is not there."""
        try:
            if not self.path.exists():
                self.path.mkdir(mode=0o755, parents=True)
                self._made = True
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise self._refused(self.path, "used", error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def find(self) -> Found:
        """Every hosts.toml, and what else is beside it. A missing directory has none."""
        files: dict[str, FileState] = {}
        directories: dict[str, frozenset[str]] = {}
        try:
            names = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return Found({}, {})
        except OSError as error:
            raise self._refused(self.path, "listed", error) from error
        for name in names:
            directory = self.path / name
            if not directory.is_dir():
                continue
            try:
                directories[name] = frozenset(os.listdir(directory))
                state = _read(directory / FILE)
            except OSError as error:
                raise self._refused(directory, "read", error) from error
            if state is not None:
                files[f"{name}/{FILE}"] = state
        return Found(files, directories)

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
            raise ConfigError(f"certs-dir: {path} is damaged ({error}); what was before is base64 text in it") from None
        self._made = self._made or ledger.made
        return ledger.entries

    def apply(self, plan: Plan, before: Record) -> None:
        """Carry a plan out. What was done before an error stays in the record."""
        if not plan.steps and plan.record == before:
            return
        self._save({**before, **plan.record})
        for step in plan.steps:
            try:
                self._take(step)
            except OSError as error:
                raise self._refused(self.path / step.path, "written", error) from error
        self._save(plan.record)

    def _take(self, step: Step) -> None:
        path = self.path / step.path
        if step.after is None:
            path.unlink(missing_ok=True)
            _sync(path.parent)
            if step.directory:
                with contextlib.suppress(OSError):  # somebody put something there: it stays
                    path.parent.rmdir()
            return
        path.parent.mkdir(mode=0o755, exist_ok=True)
        _replace(path, step.after)

    def _save(self, record: Record) -> None:
        path = self.path / RECORD
        try:
            if record:
                content = _encoder.encode(_Ledger(record, self._made))
                _replace(path, FileState(content, 0o600, os.geteuid(), os.getegid()))
                return
            path.unlink(missing_ok=True)
            if self._made:
                with contextlib.suppress(OSError):  # it has come to hold something of others
                    self.path.rmdir()
        except OSError as error:
            raise self._refused(path, "written", error) from error

    def _refused(self, path: Path, what: str, error: OSError) -> ConfigError:
        return ConfigError(f"certs-dir: {path} cannot be {what}: {error.strerror}")


def _read(path: Path) -> FileState | None:
    """The file, or None; what is neither a file nor a link to one is not containerd's either."""
    try:
        status = os.lstat(path)
        link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else None
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is not a file")
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise OSError(0, "it is larger than 1 MiB")
    return FileState(content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, link)


def _replace(path: Path, state: FileState) -> None:
    """Put a file in place so that a reader sees the old one or the new one, whole."""
    temporary = path.parent / f".{path.name}.fastmirror"
    temporary.unlink(missing_ok=True)  # of a run that was killed; the lock keeps others out
    try:
        if state.link is not None:
            os.symlink(state.link, temporary)
            if os.geteuid() == 0:
                os.chown(temporary, state.uid, state.gid, follow_symlinks=False)
            os.utime(temporary, ns=(state.mtime_ns, state.mtime_ns), follow_symlinks=False)
        else:
            _write(temporary, state)
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _write(path: Path, state: FileState) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(state.content)
        file.flush()
        if os.geteuid() == 0:  # nobody else may give files away, chown(2): what he makes is his
            os.fchown(fd, state.uid, state.gid)
        os.fchmod(fd, state.mode)  # after fchown, which takes set-id bits away
        os.fsync(fd)
    if state.mtime_ns:
        os.utime(path, ns=(state.mtime_ns, state.mtime_ns))


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
