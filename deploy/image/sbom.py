"""Says what an image is made of, as SPDX 2.3 JSON: Debian's packages that files were taken of, and Python's.

Source: SPDX specification 2.3; package URL specification.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """One part: name, version, package URL, licence as its author declares it, and Debian's record of it."""

    name: str
    version: str
    url: str
    licence: str = "NOASSERTION"
    record: str = ""


def debian_packages(files: Iterable[Path]) -> list[Package]:
    """The packages that own these files."""
    names = sorted({str(path) for path in files} | {os.path.realpath(path) for path in files})
    owners = subprocess.run(["dpkg-query", "-S", *names], capture_output=True, text=True, check=False).stdout
    packages = {line.partition(": ")[0].partition(":")[0] for line in owners.splitlines() if ": /" in line}
    return [_debian(name) for name in sorted(packages)]


def _debian(name: str) -> Package:
    fields = "Package: ${Package}\nStatus: install ok installed\nVersion: ${Version}\nArchitecture: ${Architecture}\n"
    fields += "Source: ${source:Package}\nMaintainer: ${Maintainer}\nDescription: ${binary:Summary}\n"
    record = subprocess.run(["dpkg-query", "-W", "-f", fields, name], capture_output=True, text=True, check=True).stdout
    version = next(line for line in record.splitlines() if line.startswith("Version: ")).removeprefix("Version: ")
    return Package(name, version, f"pkg:deb/debian/{name}@{version}", record=record)


def python_packages(directory: Path) -> list[Package]:
    """What pip has installed there."""
    found = []
    for metadata in sorted(directory.glob("*.dist-info/METADATA")):
        said = HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name, version = said["Name"], said["Version"]
        plain = name.lower().replace("_", "-")
        licence = said.get("License-Expression") or "NOASSERTION"
        found.append(Package(plain, version, f"pkg:pypi/{plain}@{version}", licence))
    return found


def write_spdx(path: Path, packages: list[Package]) -> None:
    """Write the list; the same for the same packages and SOURCE_DATE_EPOCH."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    entries = [_entry(package) for package in packages]
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    own = next(entry["SPDXID"] for entry in entries if entry["name"] == "fastmirror")
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": "fastmirror image",
        "documentNamespace": f"urn:fastmirror:sbom:{digest}",
        "creationInfo": {"created": created, "creators": ["Tool: fastmirror deploy/image/sbom.py"]},
        "packages": entries,
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": own},
            *(
                {"spdxElementId": own, "relationshipType": "DEPENDS_ON", "relatedSpdxElement": entry["SPDXID"]}
                for entry in entries
                if entry["SPDXID"] != own
            ),
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _entry(package: Package) -> dict[str, object]:
    kind = package.url.partition(":")[2].partition("/")[0]
    return {
        "SPDXID": f"SPDXRef-{kind}-" + "".join(c if c.isalnum() or c in ".-" else "-" for c in package.name),
        "name": package.name,
        "versionInfo": package.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": package.licence,
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": package.url.replace("+", "%2B"),
            }
        ],
    }
