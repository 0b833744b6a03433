"""Every exception of fastmirror, and the one table that turns some of them into OCI answers.

A peer that fails is not an exception (see ``fetch.outcome``), and neither is absent content (``None``).
"""

from __future__ import annotations


class FastmirrorError(Exception):
    """Root of everything fastmirror raises on purpose. Caught in ``cli.main``, printed as one line."""


class ConfigError(FastmirrorError):
    """A flag, environment variable, file key or path is wrong; the text names it, its source and the next step."""


class StartFailed(FastmirrorError):
    """The daemon cannot begin: a port is taken, a directory cannot be written. The text names the setting."""


class CertsError(FastmirrorError):
    """A certs.d directory cannot be read or written, or its record is damaged; the text names the path and why."""


class StoreError(FastmirrorError):
    """Local content cannot be used. Raised by stores, shown by ``cli`` at start, answered 404 while serving."""


class StoreUnavailable(StoreError):
    """The store is there but does not answer now (containerd restarting, directory gone for a moment)."""


class ImportFailed(StoreError):
    """An image archive was refused; the store is as it was before. The text says which entry and why."""


class DigestMismatch(FastmirrorError):
    """Bytes did not have the digest or size they were promised with. Raised by ingests and verifiers only."""

    def __init__(self, expected: str, actual: str, size: int) -> None:
        super().__init__(f"expected {expected}, got {actual} after {size} bytes")
        self.expected = expected
        self.actual = actual
        self.size = size


class PullFailed(FastmirrorError):
    """``fastmirror pull`` did not get all of an image. The text says which object, from which hosts, and why.

    ``missed`` if it is only that nobody who was asked has it.
    """

    def __init__(self, message: str, *, missed: bool = False) -> None:
        super().__init__(message)
        self.missed = missed


class RegistryError(FastmirrorError):
    """A request that gets an OCI error answer; rendered by ``mirror.answers`` only.

    Source: OCI distribution-spec, "Error Codes". ``status`` is the HTTP status, ``code`` the spec's code.
    """

    status = 500
    code = "UNKNOWN"

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class BlobUnknown(RegistryError):
    """Nobody has this blob; also the answer when we cannot serve one that exists, so that the client moves on."""

    status, code = 404, "BLOB_UNKNOWN"


class ManifestUnknown(RegistryError):
    """Nobody has this manifest or tag."""

    status, code = 404, "MANIFEST_UNKNOWN"


class NameUnknown(RegistryError):
    """The registry or repository is not one that this mirror answers for."""

    status, code = 404, "NAME_UNKNOWN"


class NotOffered(RegistryError):
    """A path of the distribution API (or of anything else) that a pull mirror does not have."""

    status, code = 404, "UNSUPPORTED"


class NameInvalid(RegistryError):
    """The repository name, registry (``ns``) or target breaks the grammar."""

    status, code = 400, "NAME_INVALID"


class DigestInvalid(RegistryError):
    """The digest breaks the grammar or uses an algorithm that is not supported."""

    status, code = 400, "DIGEST_INVALID"


class Unsupported(RegistryError):
    """A method other than GET and HEAD."""

    status, code = 405, "UNSUPPORTED"


class RangeNotSatisfiable(RegistryError):
    """A ``Range`` that selects nothing of the blob; answered 416 with ``Content-Range: bytes */size``.

    The distribution-spec has no code for it (it allows an empty body), so the answer has none.
    """

    status, code = 416, ""

    def __init__(self, size: int) -> None:
        super().__init__(f"range outside a blob of {size} bytes")
        self.size = size
