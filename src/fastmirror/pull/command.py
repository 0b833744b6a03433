"""``fastmirror pull``: from its options to its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from fastmirror.config import check
from fastmirror.errors import ConfigError, FastmirrorError
from fastmirror.pull import told
from fastmirror.pull.hosts import Host
from fastmirror.pull.image import ImageName, Platform
from fastmirror.pull.progress import progress, silent
from fastmirror.pull.report import Report
from fastmirror.pull.walk import Options, Walk


class Given(NamedTuple):
    """The options as they are typed; None where they are not."""

    image: str
    mirror: str
    origins: tuple[str, ...]
    admin: str | None
    into: str | None
    at_once: int
    platform: str | None
    progress: bool


def run(given: Given) -> tuple[Report, FastmirrorError | None]:
    """Pull; the report, and why the pull failed if it did. Raises ConfigError for options that cannot be used."""
    hosts = (Host.parse(given.mirror, "mirror"), *(Host.parse(url, "origin") for url in given.origins))
    admin = None if given.admin is None else Host.parse(given.admin, "admin")
    options = Options(
        image=ImageName.parse(given.image),
        hosts=hosts,
        platform=Platform.here() if given.platform is None else Platform.parse(given.platform),
        at_once=given.at_once,
        into=None if given.into is None else _directory(given.into),
    )
    walk = Walk(options, progress(sys.stderr) if given.progress else silent)
    failure: FastmirrorError | None = None
    try:
        walk.run()
    except FastmirrorError as error:
        failure = error
    if walk.other is not None:
        wanted = options.platform
        sys.stderr.write(f"fastmirror: the image is for {walk.other} alone, not for {wanted}: it has no index\n")
    heard = told.ask(admin, walk.began, (one.digest for one in walk.objects))
    return Report(walk, heard, failure), failure


def _directory(text: str) -> Path:
    try:
        address = check.store(text)
    except ValueError as error:
        raise ConfigError(f"into: {error}, not {text[:200]!r} (from --into)") from None
    if address.kind != "oci":
        raise ConfigError(f"into: {text[:200]} cannot be pulled into; give oci:DIR (from --into)")
    return Path(address.path)
