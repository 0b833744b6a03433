"""Find the files in a tar archive without unpacking it, and refuse what no image archive has.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Header Block"; GNU tar manual, "Basic Tar Format".
Nothing is ever written under a name from the archive; refusing tricks in names means that no later tool meets them.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from fastmirror.errors import ImportFailed

BLOCK: Final = 512
MAX_ENTRIES: Final = 100_000
_MAX_EXTENSION: Final = 64 << 10  # a pax header or GNU long name; PATH_MAX is 4096
_MAX_LINKS: Final = 8
_ZERO: Final = bytes(BLOCK)
_REGULAR: Final = frozenset({b"0", b"\0", b"7"})
_KINDS: Final = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"S": "a sparse file",
    b"V": "a volume label",
    b"M": "a part of a multi-volume archive",
}


class ForwardReader(Protocol):
    """The bytes of an archive, front to back."""

    position: int

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer only at the end."""

    def skip(self, count: int, entry: str) -> None:
        """Pass over the content of an entry. Raises ImportFailed if there are not that many bytes."""


class Entry(NamedTuple):
    """Where the content of a regular file lies in the archive, in bytes."""

    offset: int
    size: int


class _Header(NamedTuple):
    name: str
    kind: bytes
    size: int
    link: str


class Index:
    """The regular files of an archive by name; links that stay inside are followed."""

    def __init__(self) -> None:
        self._files: dict[str, Entry] = {}
        self._links: dict[str, str] = {}
        self._directories: set[str] = set()

    def find(self, name: str) -> Entry | None:
        """The file with this name, also through links; None if there is none."""
        for _ in range(_MAX_LINKS):
            target = self._links.get(name)
            if target is None:
                return self._files.get(name)
            name = target
        return None

    def add(self, header: _Header, offset: int) -> None:
        """Note one entry. Raises ImportFailed for what is refused."""
        is_directory = header.kind == b"5" or (header.kind == b"\0" and header.name.endswith("/"))
        name = inside(header.name, "", header.name)
        if is_directory:
            if name in self._files or name in self._links:
                raise _refused(header.name, "it is in the archive twice")
            self._directories.add(name)
            return
        if not name:
            raise _refused(header.name, "it has no name")
        if name in self._files or name in self._links or name in self._directories:
            raise _refused(header.name, "it is in the archive twice")
        if len(self._files) + len(self._links) + len(self._directories) >= MAX_ENTRIES:
            raise ImportFailed(f"it has more than {MAX_ENTRIES} entries, which is no image archive")
        if header.kind in _REGULAR:
            self._files[name] = Entry(offset, header.size)
        elif header.kind == b"1":
            self._links[name] = inside(header.link, "", header.name)
        elif header.kind == b"2":
            self._links[name] = inside(header.link, name.rpartition("/")[0], header.name)
        else:
            what = _KINDS.get(header.kind, f"of the unknown kind {header.kind!r}")
            raise _refused(header.name, f"it is {what}")


def read_index(reader: ForwardReader) -> Index:
    """Go through an archive. Raises ImportFailed naming the entry for what is damaged, cut short or refused."""
    index = Index()
    extra: dict[str, str] = {}
    while True:
        block = reader.take(BLOCK)
        if block == _ZERO:
            return index
        if len(block) < BLOCK:
            if reader.position == len(block):
                raise ImportFailed("it is empty" if not block else "it is no tar archive")
            raise ImportFailed("it is cut short: its end is missing; copy or make it again")
        header = _read_header(block, extra, first=reader.position == BLOCK)
        if header.kind in (b"x", b"L", b"K", b"g"):
            _read_extension(header, _take_content(reader, header), extra)
            continue
        extra = {}
        has_content = header.kind in _REGULAR
        index.add(header, reader.position)
        if has_content:
            reader.skip(-(-header.size // BLOCK) * BLOCK, header.name)


def _refused(entry: str, why: str) -> ImportFailed:
    return ImportFailed(f"entry {entry[:200]!r} is refused: {why}")


def inside(name: str, base: str, entry: str) -> str:
    """``name``, seen from the directory ``base``, as a plain path below the archive's root.

    Raises ImportFailed if it is absolute, leads out of the archive, or has characters that no tool puts into names.
    """
    if not name.isprintable():
        raise _refused(entry, "it has control characters in its name")
    if name.startswith("/"):
        raise _refused(entry, f"{name[:200]!r} is an absolute path" if name != entry else "its path is absolute")
    parts = base.split("/") if base else []
    for part in name.split("/"):
        if part == "..":
            if not base or not parts:
                raise _refused(entry, "it leads out of the archive")
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _number(raw: bytes) -> int:
    """An octal number, or GNU's base-256 for what does not fit. Raises ValueError."""
    if raw[0] & 0x80:
        return -1 if raw[0] & 0x40 else int.from_bytes(bytes([raw[0] & 0x3F]) + raw[1:])
    digits = raw.strip(b" \0")
    if digits.translate(None, b"01234567"):
        raise ValueError("not an octal number")
    return int(digits or b"0", 8)


def _read_header(block: bytes, extra: dict[str, str], *, first: bool) -> _Header:
    try:
        checksum = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        checksum = size = -1
    if checksum != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        raise ImportFailed("it is no tar archive" if first else "it is damaged: a header's checksum is wrong")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    kind = block[156:157]
    if kind in (b"x", b"g", b"L", b"K"):
        return _Header(name, kind, size, "")
    name = extra.get("path", name)
    if "size" in extra:
        size = int(extra["size"]) if extra["size"].isascii() and extra["size"].isdecimal() else -1
    if not 0 <= size < 1 << 62:
        raise _refused(name, "its size is not a number of bytes")
    return _Header(name, kind, size, extra.get("linkpath", _text(block[157:257])))


def _take_content(reader: ForwardReader, header: _Header) -> bytes:
    if not 0 <= header.size <= _MAX_EXTENSION:
        raise _refused(header.name, "its extended header is larger than 64 KiB")
    content = reader.take(-(-header.size // BLOCK) * BLOCK)
    if len(content) < header.size:
        raise ImportFailed("it is cut short within a header; copy or make it again")
    return content[: header.size]


def _read_extension(header: _Header, content: bytes, extra: dict[str, str]) -> None:
    if header.kind in (b"L", b"K"):
        extra["path" if header.kind == b"L" else "linkpath"] = _text(content)
        return
    for key, value in _pax_records(header, content):
        if key.startswith("GNU.sparse."):
            raise _refused(header.name, "it is a sparse file")
        if key in ("path", "linkpath", "size"):
            if header.kind == b"g":
                raise _refused(header.name, f"it gives a {key} to all entries that follow")
            if "\0" in value:
                raise _refused(header.name, f"its {key} has a NUL")
            extra[key] = value


def _pax_records(header: _Header, content: bytes) -> list[tuple[str, str]]:
    records = []
    while content:
        length, space, _ = content.partition(b" ")
        if not space or not length.isdigit() or len(length) > 6 or not len(length) + 2 < int(length) <= len(content):
            raise _refused(header.name, "its extended header is damaged")
        record, content = content[len(length) + 1 : int(length)], content[int(length) :]
        key, equals, value = record.partition(b"=")
        if not equals or value[-1:] != b"\n":
            raise _refused(header.name, "its extended header is damaged")
        records.append((_plain(key), _plain(value[:-1])))
    return records


def _plain(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
