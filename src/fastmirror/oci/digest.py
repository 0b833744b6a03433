"""Content addresses, ``algorithm:hex``. Source: OCI image-spec, descriptor.md, "Digests"."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from fastmirror.errors import DigestInvalid

if TYPE_CHECKING:
    from hashlib import _Hash

_HEX_LENGTH: Final = {"sha256": 64, "sha512": 128}
_GRAMMAR: Final = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})", re.ASCII)


class Digest(str):
    """A digest whose form was checked: only :meth:`parse` and :meth:`of` make one.

    It is a ``str`` so that it hashes and compares at C speed and serialises as itself.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Check the grammar and return the digest. Raises DigestInvalid; sha256 and sha512 only, lower-case hex."""
        if _GRAMMAR.fullmatch(text) is None:
            raise DigestInvalid("digest is not sha256 or sha512 with lower-case hex", text[:160])
        return cls(text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of ``content``. Raises DigestInvalid for an algorithm that is not supported."""
        if algorithm not in _HEX_LENGTH:
            raise DigestInvalid("digest algorithm is not supported", algorithm[:40])
        return cls(f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}")

    @property
    def algorithm(self) -> str:
        """``sha256`` or ``sha512``."""
        return self[:6]

    @property
    def hex(self) -> str:
        """The lower-case hexadecimal part: 64 or 128 characters."""
        return self[7:]

    def hasher(self) -> _Hash:
        """A fresh hashlib object of this digest's algorithm."""
        return hashlib.new(self.algorithm)
