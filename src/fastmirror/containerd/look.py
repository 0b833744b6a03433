"""What ``fastmirror doctor`` looks at: thin questions to the system, whose answers ``findings`` judges."""

from __future__ import annotations

import glob
import hashlib
import http.client
import json
import os
import socket
import stat
import threading
import tomllib
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from fastmirror.containerd.certs import CertsDirectory
from fastmirror.containerd.client import Client
from fastmirror.containerd.findings import ContentSeen, CriSeen, ServedSeen, SocketSeen, SpoolSeen, number
from fastmirror.containerd.frames import ContentRecord
from fastmirror.containerd.hosts import FILE
from fastmirror.errors import StoreError
from fastmirror.fetch.spool import unnamed_file

PROBE_REGISTRY: Final = "fastmirror.invalid"  # RFC 6761: .invalid is nobody's
_PROBE_IMAGE: Final = f"{PROBE_REGISTRY}/probe@sha256:{'0' * 64}"
_SERVED_BYTES: Final = 8 << 20
_TIMEOUT_SECONDS: Final = 5.0
_IMAGE_PLUGINS: Final = ("io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri")


async def look_at_socket(client: Client, path: str) -> SocketSeen:
    """Ask containerd for its version."""
    try:
        status = os.stat(path)
    except OSError as error:
        return SocketSeen(path, exists=not isinstance(error, FileNotFoundError), error=error.strerror or str(error))
    owner = f"{stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"
    try:
        return SocketSeen(path, exists=True, version=await client.version(), owner=owner)
    except StoreError as error:
        why = str(error).partition("does not answer: ")[2] or str(error)
        return SocketSeen(path, exists=True, error=_refused(path) or why, owner=owner)


def _refused(path: str) -> str:
    """Why the system refuses a connection; gRPC does not always say."""
    with socket.socket(socket.AF_UNIX) as attempt:
        attempt.settimeout(1)
        try:
            attempt.connect(path)
        except OSError as error:
            return error.strerror or str(error)
    return ""


async def look_at_cri(client: Client, config: Path, version: str) -> CriSeen:
    """CRI's settings: from CRI itself, which before 2.0 tells all of them, else from containerd's configuration."""
    told: dict[str, Any] = {}
    try:
        told = json.loads((await client.runtime_info()).get("config", "{}"))
    except (StoreError, ValueError) as error:
        trouble = f"CRI does not say ({error})"
    else:
        trouble = "CRI does not say"
    if "configPath" in told.get("registry", {}):
        discard = told.get("containerd", {}).get("discardUnpackedLayers")
        return CriSeen("CRI", told["registry"]["configPath"] or "", discard)
    try:
        plugins = _plugins(config)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return CriSeen(str(config), error=f"{trouble}, and {config} cannot be read: {error}")
    # What the configuration does not set has containerd's own default; the path's is not the same in every 2.x.
    path, discard = (None if number(version) >= (2, 2) else ""), False
    for name in _IMAGE_PLUGINS:
        settings = plugins.get(name, {})
        path = settings.get("registry", {}).get("config_path", path)
        for table in (settings.get("containerd", {}), settings):  # 1.x has it in a table of its own
            discard = table.get("discard_unpacked_layers", discard)
    buffer = plugins.get("io.containerd.transfer.v1.local", {}).get("concurrent_layer_fetch_buffer")
    return CriSeen(str(config), path, bool(discard), buffer or 0)


def _plugins(config: Path) -> dict[str, Any]:
    """The plugins' settings of a configuration and what it imports. Source: containerd-config.toml(5), imports."""
    document = tomllib.loads(config.read_text())
    merged: dict[str, Any] = dict(document.get("plugins", {}))
    for pattern in document.get("imports", []):
        for name in sorted(glob.glob(str(config.parent / pattern))):
            other = tomllib.loads(Path(name).read_text())
            for plugin, settings in other.get("plugins", {}).items():
                merged[plugin] = {**merged.get(plugin, {}), **settings}
    return merged


async def look_at_content(client: Client, given: str, listed: list[ContentRecord]) -> ContentSeen:
    """The content directory that is served, against containerd's."""
    try:
        named = await client.content_root() or ""
    except StoreError as error:
        named, trouble = "", str(error)
    else:
        trouble = ""
    served = given or named
    if not served:
        return ContentSeen("", None, error=trouble or "containerd does not name it")
    try:
        identity = _identity(served)
        os.listdir(Path(served) / "blobs" / "sha256")
    except OSError as error:
        return ContentSeen(served, None, named, error=error.strerror or str(error))
    try:
        other = _identity(named) if named else None
    except OSError:
        other = None  # another mount namespace, or no right to look
    held = None
    if listed:
        held = all(_size(served, record.digest) == record.size for record in listed[:20])
    return ContentSeen(served, identity, named, other, held, trouble)


def look_at_spool(directory: str) -> SpoolSeen:
    """Make a file of one block in the spool's directory, and ask what is free there. Leaves and makes nothing."""
    try:
        os.stat(directory)  # what is not there would be made
    except OSError as error:
        visible = isinstance(error, FileNotFoundError)
        return SpoolSeen(directory, None, error.strerror or str(error), error.errno or 0, visible)
    try:
        fd = unnamed_file(directory)
        try:
            os.posix_fallocate(fd, 0, 4096)
            status = os.fstatvfs(fd)
        finally:
            os.close(fd)
    except OSError as error:
        return SpoolSeen(directory, None, error.strerror or str(error), error.errno or 0)
    return SpoolSeen(directory, status.f_bavail * status.f_frsize)


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(Path(path) / "blobs")
    return status.st_dev, status.st_ino


def _size(content: str, digest: str) -> int | None:
    try:
        return os.stat(Path(content) / "blobs" / digest.replace(":", "/", 1)).st_size
    except OSError:
        return None


def look_at_served(mirror: str, listed: list[ContentRecord]) -> ServedSeen:
    """Ask the mirror for something that containerd has, and hash what comes."""
    known = [record for record in listed if 0 < record.size <= _SERVED_BYTES]
    if not known:
        return ServedSeen(error="containerd lists no content of at most 8 MiB")
    record = min(known, key=lambda record: (not record.sources, record.size))
    registry, _, repository = (record.sources or ("fastmirror.invalid/doctor",))[0].partition("/")
    parts = urlsplit(mirror)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/v2/{repository}/blobs/{record.digest}?ns={registry}")
        answer = connection.getresponse()
        content = answer.read(record.size + 1)
    except (OSError, http.client.HTTPException) as error:
        return ServedSeen(record.digest, error=str(error) or type(error).__name__)
    finally:
        connection.close()
    algorithm, _, expected = record.digest.partition(":")
    right = answer.status == 200 and hashlib.new(algorithm, content).hexdigest() == expected
    return ServedSeen(record.digest, answer.status, right)


async def look_at_pull(client: Client, certs: Path) -> tuple[bool | None, str]:
    """Let CRI pull a name that cannot exist, with a hosts.toml of its own, and see who is asked.

    Returns whether the pull came to the address in that hosts.toml, and what CRI said. Leaves nothing behind.
    """
    directory = certs / PROBE_REGISTRY
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = threading.Event()
        threading.Thread(target=_refuse_all, args=(listener, asked), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with CertsDirectory(certs).locked():
                directory.mkdir()
            (directory / FILE).write_text(f'server = "{url}"\n[host."{url}"]\ncapabilities = ["pull", "resolve"]\n')
        except OSError as error:
            return None, f"{directory} cannot be written: {error.strerror}"
        try:
            await client.pull(_PROBE_IMAGE, _TIMEOUT_SECONDS)
        except StoreError as error:
            return asked.is_set(), str(error)
        finally:
            (directory / FILE).unlink(missing_ok=True)
            directory.rmdir()
            listener.shutdown(socket.SHUT_RDWR)
    return asked.is_set(), ""


def _refuse_all(listener: socket.socket, asked: threading.Event) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the look is over
        with connection:
            connection.settimeout(_TIMEOUT_SECONDS)
            try:
                if connection.recv(65536):
                    asked.set()
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                continue
