"""What the kernel says about a process. Source: proc(5)."""

from __future__ import annotations

import os
import re
from pathlib import Path

_HZ = os.sysconf("SC_CLK_TCK")


def _status(pid: int, field: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
    assert match is not None, f"/proc/{pid}/status has no {field}: the process is gone"
    return int(match[1])


def fd_count(pid: int) -> int:
    """How many descriptors the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def thread_count(pid: int) -> int:
    """How many threads the process has."""
    return _status(pid, "Threads")


def rss_kib(pid: int) -> int:
    """Resident memory in KiB."""
    return _status(pid, "VmRSS")


def pss_kib(pid: int) -> int:
    """Proportional resident memory in KiB: what is shared with other processes counts in part."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    match = re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)
    assert match is not None
    return int(match[1])


def reset_peak(pid: int) -> None:
    """Make the peak of resident memory equal to what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pid: int) -> int:
    """The most resident memory in KiB since the process began or :func:`reset_peak`."""
    return _status(pid, "VmHWM")


def cpu_seconds(pid: int) -> float:
    """User and system time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _HZ


def deleted_files(pid: int) -> int:
    """How many of the open descriptors are files without a name (a spool, a blob that was removed)."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += os.readlink(f"/proc/{pid}/fd/{name}").endswith(" (deleted)")
        except FileNotFoundError:
            continue  # closed since the listing
    return count


def listener_pid(host: str, port: int) -> int | None:
    """The process that listens on an IPv4 address of this machine, or None if that cannot be seen."""
    packed = "".join(f"{int(part):02X}" for part in reversed(host.split(".")))
    wanted = {f"{packed}:{port:04X}", f"00000000:{port:04X}"}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] in wanted and fields[3] == "0A":
            return _socket_owner(fields[9])
    return None


def _socket_owner(inode: str) -> int | None:
    link = f"socket:[{inode}]"
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if any(os.readlink(fd) == link for fd in (entry / "fd").iterdir()):
                return int(entry.name)
        except OSError:
            continue  # ended meanwhile, or not ours to look into
    return None
