"""What ``configure`` and ``cleanup`` change, given what is there. Pure: files in, steps and remarks out.

What a file was before us is kept in the record until ``cleanup`` gives it back. A file that is no longer as we wrote it
was edited by hand: those edits stay, and only lines that are still ours, letter for letter, are changed or taken out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import msgspec

from fastmirror.containerd import hosts
from fastmirror.containerd.hosts import CannotPrepend, Target

KEPT_SUFFIX: Final = ".before-fastmirror"


class FileState(msgspec.Struct, frozen=True):
    """A file as it is: its bytes, and what else is given back. ``link`` is set for a symbolic link.

    Without an owner it is for who makes it, without a time it is new.
    """

    content: bytes
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    link: str | None = None


class Entry(msgspec.Struct, frozen=True):
    """What was done to one file: how it was before (None: it was not there), what we wrote, and our lines in it.

    ``previous`` is what we had written before that: it is still there if we died before the file was replaced.
    """

    before: FileState | None
    written: bytes
    owned: str
    made_directory: bool = False
    previous: bytes = b""

    def wrote(self, current: FileState) -> bool:
        """Whether a file is as we left it."""
        return current.link is None and current.content in (self.written, self.previous or self.written)


Record = dict[str, Entry]
"""Everything that was done, by path below the certs.d directory."""


class Step(NamedTuple):
    """One change. ``after`` None removes the file, and with ``directory`` its directory too if that is empty then."""

    path: str
    before: FileState | None
    after: FileState | None
    directory: bool = False


class Remark(NamedTuple):
    """Something to tell: ``problem`` means that what was asked for was not done."""

    kind: Literal["note", "problem"]
    path: str
    text: str


class Plan(NamedTuple):
    """What to do, in order; the record when it is done; what to say."""

    steps: list[Step]
    record: Record
    remarks: list[Remark]


class Found(NamedTuple):
    """What is there: files by path below certs.d, the names in each directory of it, and why a file cannot be read."""

    files: dict[str, FileState]
    directories: dict[str, frozenset[str]]
    unreadable: dict[str, str]


class Wanted(NamedTuple):
    """What was asked for. ``replace``: files that nothing can be put in front of are backed up and replaced."""

    targets: tuple[Target, ...]
    mirror: str
    resolve_tags: bool = False
    replace: bool = False

    @property
    def lines(self) -> str:
        """Our host's table."""
        return hosts.block(self.mirror, resolve_tags=self.resolve_tags)


def configure(found: Found, record: Record, wanted: Wanted) -> Plan:
    """Put the mirror first for every target, and give back what was done for targets that are wanted no more."""
    plan = Plan([], {}, [])
    paths = {_place(found, target): target for target in wanted.targets}
    for path, target in paths.items():
        _configure_one(plan, found, record, wanted, (path, target))
    _give_back(plan, found, {path: entry for path, entry in record.items() if path not in paths})
    for directory in _shadows(found, wanted):
        text = f"has a directory of its own, so _default does not count for it: add --registry {directory}"
        plan.remarks.append(Remark("note", directory, text))
    return plan


def cleanup(found: Found, record: Record) -> Plan:
    """Give every file back as it was before us."""
    plan = Plan([], {}, [])
    _give_back(plan, found, record)
    return plan


def _place(found: Found, target: Target) -> str:
    for directory in target.directories:
        if directory in found.directories:
            return f"{directory}/{hosts.FILE}"
    return f"{target.directories[-1]}/{hosts.FILE}"


def _shadows(found: Found, wanted: Wanted) -> Iterable[str]:
    if all(target.registry != hosts.DEFAULT for target in wanted.targets):
        return []
    ours = {directory for target in wanted.targets for directory in target.directories}
    return sorted(name for name in found.directories if name not in ours and not name.startswith((".", "_")))


def _configure_one(plan: Plan, found: Found, record: Record, wanted: Wanted, place: tuple[str, Target]) -> None:
    path = place[0]
    current, entry = found.files.get(path), record.get(path)
    if path in found.unreadable:
        _pass_over(plan, found, path, entry)
    elif entry is None:
        _write(plan, found, wanted, place, current)
    elif current is None or entry.wrote(current):
        _write(plan, found, wanted, place, entry.before, entry)
    else:
        text = _text(current)
        if hosts.without(text, entry.owned) is not None:
            _exchange(plan, found, wanted, place, (current, entry))
        elif hosts.HEADER not in text and f'"{wanted.mirror}"' not in text:
            _write(plan, found, wanted, place, current)  # somebody else wrote it anew: that is what was there before
        else:
            plan.record[path] = entry
            plan.remarks.append(Remark("problem", path, "our lines in it were edited by hand: it is left as it is"))


def _pass_over(plan: Plan, found: Found, path: str, entry: Entry | None) -> None:
    plan.remarks.append(Remark("problem", path, f"cannot be read ({found.unreadable[path]}): it is left as it is"))
    if entry is not None:
        plan.record[path] = entry


def _write(
    plan: Plan,
    found: Found,
    wanted: Wanted,
    place: tuple[str, Target],
    before: FileState | None,
    entry: Entry | None = None,
) -> None:
    """Make the file from what was there before us."""
    path, target = place
    directory = path.partition("/")[0]
    text = owned = hosts.new_file(target.server, wanted.lines, found.directories.get(directory, ()))
    if before is not None:
        try:
            old = _text(before)
            if hosts.names_mirror(hosts.parse(old), wanted.mirror):
                _leave(plan, found, path, entry, Remark("note", path, "names the mirror already: it is left as it is"))
                return
            text, owned = hosts.prepend(old, wanted.lines), hosts.HEADER + wanted.lines
        except (CannotPrepend, UnicodeDecodeError) as error:
            if not wanted.replace:
                why = f"cannot be changed: {error}; mend it, or give --replace to back it up and replace it"
                _leave(plan, found, path, entry, Remark("problem", path, why))
                return
    content = text.encode()
    made = entry.made_directory if entry is not None else directory not in found.directories
    current = found.files.get(path)
    previous = b"" if entry is None else entry.previous
    if entry is not None and current is not None and current.content != content and entry.wrote(current):
        previous = current.content
    plan.record[path] = Entry(before, content, owned, made, previous)
    if current is None or current.content != content or current.link is not None:
        plan.steps.append(Step(path, current, _like(before, content)))


def _leave(plan: Plan, found: Found, path: str, entry: Entry | None, remark: Remark) -> None:
    plan.remarks.append(remark)
    if entry is not None:
        _give_back(plan, found, {path: entry})


def _exchange(
    plan: Plan, found: Found, wanted: Wanted, place: tuple[str, Target], there: tuple[FileState, Entry]
) -> None:
    """Renew our lines in a file that was edited around them."""
    (path, target), (current, entry) = place, there
    owned = entry.owned
    if not owned.endswith(wanted.lines):
        siblings = found.directories.get(path.partition("/")[0], ())
        whole = entry.written == owned.encode()
        owned = hosts.new_file(target.server, wanted.lines, siblings) if whole else hosts.HEADER + wanted.lines
    content = _text(current).replace(entry.owned, owned, 1).encode()
    plan.record[path] = msgspec.structs.replace(entry, owned=owned)
    plan.remarks.append(Remark("note", path, "was edited by hand: the edits are kept"))
    if content != current.content:
        plan.steps.append(Step(path, current, _like(current, content)))


def _give_back(plan: Plan, found: Found, record: Record) -> None:
    for path, entry in record.items():
        current, before = found.files.get(path), entry.before
        directory = path.partition("/")[0]
        if path in found.unreadable:
            _pass_over(plan, found, path, entry)
        elif current is not None and entry.wrote(current):
            plan.steps.append(Step(path, current, before, entry.made_directory))
        elif current == before or (current is not None and before is not None and current.content == before.content):
            if current != before:
                plan.steps.append(Step(path, current, before))
            elif current is None and entry.made_directory and directory in found.directories:
                plan.steps.append(Step(path, None, None, directory=True))  # it was made, and then we were killed
        elif current is None:
            _keep_backup(plan, path, entry, "was removed by hand")
        else:
            _give_back_edited(plan, path, current, entry)


def _give_back_edited(plan: Plan, path: str, current: FileState, entry: Entry) -> None:
    try:
        rest = hosts.without(_text(current), entry.owned)
    except UnicodeDecodeError:
        rest = None
    if rest is None:
        _keep_backup(plan, path, entry, "was edited by hand, our lines too: it is left as it is, look at it")
    elif not rest.strip() and entry.before is None:
        plan.steps.append(Step(path, current, None, entry.made_directory))
    else:
        plan.steps.append(Step(path, current, _like(current, rest.encode())))
        plan.remarks.append(Remark("note", path, "was edited by hand: the edits are kept, our lines are taken out"))


def _keep_backup(plan: Plan, path: str, entry: Entry, what: str) -> None:
    if entry.before is None:
        plan.remarks.append(Remark("note", path, what))
        return
    plan.steps.append(Step(path + KEPT_SUFFIX, None, entry.before))
    plan.remarks.append(Remark("note", path, f"{what}; how it was before us is in {path}{KEPT_SUFFIX}"))


def _like(state: FileState | None, content: bytes) -> FileState:
    """New content with the mode and owner that the file had; a link becomes a file."""
    if state is None:
        return FileState(content)
    return FileState(content, state.mode, state.uid, state.gid)


def _text(state: FileState) -> str:
    return state.content.decode("utf-8")
