"""Heads and bodies of every answer.

Source: OCI distribution-spec, "Pulling blobs", "Pulling manifests", "Error Codes".
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastmirror import __version__
from fastmirror._native.requests import Refusal
from fastmirror.errors import RangeNotSatisfiable, RegistryError
from fastmirror.http.message import Reply, head
from fastmirror.oci.descriptor import OCTET_STREAM, Descriptor
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span

_REFUSAL_CODES: Final = {403: "DENIED", 405: "UNSUPPORTED", 500: "UNKNOWN"}
VERSION_FIELD: Final = f"Fastmirror-Version: {__version__}"


def etag(digest: Digest) -> bytes:
    """The strong ETag of content: its digest."""
    return b'"' + digest.encode() + b'"'


def _namespace(registry: str) -> tuple[str, ...]:
    return (f"OCI-Namespace: {registry}",) if registry else ()


def blob_head(digest: Digest, size: int, span: Span | None, registry: str = "") -> bytes:
    """200 for the whole blob, 206 for a span of it. Blobs are always octet streams: their type is in the manifest."""
    return head(
        200 if span is None else 206,
        f"Content-Type: {OCTET_STREAM}",
        f"Content-Length: {size if span is None else len(span)}",
        *(() if span is None else (f"Content-Range: {span.content_range(size)}",)),
        f"Docker-Content-Digest: {digest}",
        f'ETag: "{digest}"',
        "Accept-Ranges: bytes",
        *_namespace(registry),
    )


def manifest_head(manifest: Descriptor, registry: str = "") -> bytes:
    """200 for a manifest or index whose media type was read from its own bytes."""
    return head(
        200,
        f"Content-Type: {manifest.media_type}",
        f"Content-Length: {manifest.size}",
        f"Docker-Content-Digest: {manifest.digest}",
        f'ETag: "{manifest.digest}"',
        *_namespace(registry),
    )


def api_reply() -> Reply:
    """The API version check, ``GET /v2/``; its version field tells that the port is a fastmirror."""
    content = b"{}"
    fields = ("Content-Type: application/json", "Docker-Distribution-Api-Version: registry/2.0", VERSION_FIELD)
    return Reply(head(200, f"Content-Length: {len(content)}", *fields), content, cacheable=True)


def error_reply(error: RegistryError) -> Reply:
    """An OCI error, or 416 with an empty body."""
    if isinstance(error, RangeNotSatisfiable):
        return Reply(head(416, "Content-Length: 0", f"Content-Range: bytes */{error.size}"))
    return _json_error(error.status, error.code, error.message, error.detail)


def refusal_reply(refusal: Refusal) -> Reply:
    """The answer to a request that never became one."""
    code = _REFUSAL_CODES.get(refusal.status, "NAME_INVALID")
    return _json_error(refusal.status, code, refusal.message, "", refusal.close)


def _json_error(status: int, code: str, message: str, detail: str, close: bool = False) -> Reply:
    error = {"code": code, "message": message, "detail": detail.encode("ascii", "replace").decode()}
    content = msgspec.json.encode({"errors": [error]})
    allow = ("Allow: GET, HEAD",) if status == 405 else ()
    fields = ("Content-Type: application/json", f"Content-Length: {len(content)}", *allow)
    return Reply(head(status, *fields), content, close=close)
