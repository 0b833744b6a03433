"""The content that the cases ask for: one small image and one large blob."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final, NamedTuple

from tests.kit.layout import OCI_MANIFEST, Layout, digest_of, image

BLOB: Final = random.Random(42).randbytes(2048)
MANIFEST, _BLOBS = image([BLOB])
BIG_SIZE: Final = 64 * 1024 * 1024
_BIG_DIGEST: Final = "sha256:3b6a07d0d404fab4e23b6d34bc6696a6a312dd92821332385e5af7c01c421351"  # of 64 MiB of zeros


class Fixture(NamedTuple):
    """What a server must have: the values of the placeholders, and the bytes behind them."""

    values: dict[str, str]
    blob: bytes
    manifest: bytes
    big: str

    def fill(self, text: str) -> str:
        """Put the values into a text."""
        for name, value in self.values.items():
            text = text.replace("{" + name + "}", value)
        return text.replace("{{}}", "{}")


def fixture() -> Fixture:
    """The fixture that :func:`write` makes; always the same."""
    blob, manifest = digest_of(BLOB), digest_of(MANIFEST)
    values = {
        "NS": "registry.example",
        "NAME": "library/test",
        "TAG": "v1",
        "MD": manifest,
        "MS": str(len(MANIFEST)),
        "MT": OCI_MANIFEST,
        "BD": blob,
        "BDHEX": blob.partition(":")[2],
        "BDUP": "sha256:" + blob.partition(":")[2].upper(),
        "BS": str(len(BLOB)),
        "BS1": str(len(BLOB) - 1),
        "XD": "sha256:" + "ab" * 32,
    }
    return Fixture(values, BLOB, MANIFEST, _BIG_DIGEST)


def write(directory: Path) -> Fixture:
    """Write the fixture as an OCI image layout."""
    layout = Layout(directory)
    layout.add_image("registry.example/library/test:v1", MANIFEST, _BLOBS)
    big = layout.add_zeros(BIG_SIZE)
    assert big == _BIG_DIGEST, big
    return fixture()
