"""containerd over gRPC: the few calls that fastmirror makes. The only module that imports grpc.

Source: containerd api/services and api/types; CRI runtime.v1. Messages: ``containerd.api``.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any, Final, Self, TypeVar

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # we never fork; its handlers log on stderr
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is raised; stderr is for JSON lines

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from fastmirror.containerd.api import (
    content_pb2,
    cri_pb2,
    events_pb2,
    images_pb2,
    introspection_pb2,
    types_pb2,
    version_pb2,
)
from fastmirror.containerd.frames import ContentRecord, Event, ImageRecord
from fastmirror.containerd.sources import label_sources
from fastmirror.errors import StoreError, StoreUnavailable

_OPTIONS: Final = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),  # the time an attempt may take, too: a busy node needs more than 100 ms
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
_AWAY: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}
)
_EVENTS: Final = ('topic~="^/images/"', 'topic=="/content/create"')

Answer = TypeVar("Answer", bound=Message)


class Client:
    """One channel to containerd's socket, for one namespace. Every call has a deadline, in seconds.

    Raises StoreUnavailable when containerd does not answer, StoreError when it refuses. Owned by ``async with``.
    """

    def __init__(self, socket: str, namespace: str) -> None:
        self._socket = socket
        self._namespace = namespace
        self._metadata = (("containerd-namespace", namespace),)
        self._channel = grpc.aio.insecure_channel(f"unix://{os.path.abspath(socket)}", options=_OPTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()

    async def version(self, timeout: float = 1.0) -> str:
        """containerd's version, such as ``1.7.24~ds1``."""
        method = "/containerd.services.version.v1.Version/Version"
        answer = await self._call(method, Empty(), version_pb2.VersionResponse, timeout)
        return answer.version

    async def content_root(self, timeout: float = 2.0) -> str | None:
        """The directory that holds ``blobs/``, as containerd sees it; None if it does not say.

        ``PluginInfo`` is newer than 1.6, ``Plugins`` is in every version.
        """
        request = introspection_pb2.PluginsRequest(filters=["type==io.containerd.content.v1,id==content"])
        method = "/containerd.services.introspection.v1.Introspection/Plugins"
        answer = await self._call(method, request, introspection_pb2.PluginsResponse, timeout)
        for plugin in answer.plugins:
            if "root" in plugin.exports:
                return plugin.exports["root"]
        return None

    async def images(self, timeout: float = 10.0) -> list[ImageRecord]:
        """All names of the namespace."""
        method = "/containerd.services.images.v1.Images/List"
        answer = await self._call(method, images_pb2.ListImagesRequest(), images_pb2.ListImagesResponse, timeout)
        return [
            ImageRecord(image.name, image.target.media_type, image.target.digest, image.target.size)
            for image in answer.images
        ]

    async def content(self, timeout: float = 30.0) -> list[ContentRecord]:
        """All content of the namespace."""
        call = self._channel.unary_stream(
            "/containerd.services.content.v1.Content/List",
            request_serializer=content_pb2.ListContentRequest.SerializeToString,
            response_deserializer=content_pb2.ListContentResponse.FromString,
        )(content_pb2.ListContentRequest(), metadata=self._metadata, timeout=timeout)
        try:
            return [_content(info) async for answer in call for info in answer.info]
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    async def info(self, digest: str, timeout: float = 0.5) -> ContentRecord | None:
        """One piece of content, or None if the namespace does not have it."""
        method = "/containerd.services.content.v1.Content/Info"
        try:
            answer = await self._call(method, content_pb2.InfoRequest(digest=digest), content_pb2.InfoResponse, timeout)
        except _NotFound:
            return None
        return _content(answer.info)

    async def events(self) -> AsyncIterator[Event]:
        """What happens in the namespace from now on, until the stream is lost (StoreUnavailable) or closed."""
        filters = [f"namespace=={self._namespace},{topic}" for topic in _EVENTS]
        call = self._channel.unary_stream(
            "/containerd.services.events.v1.Events/Subscribe",
            request_serializer=events_pb2.SubscribeRequest.SerializeToString,
            response_deserializer=types_pb2.Envelope.FromString,
        )(events_pb2.SubscribeRequest(filters=filters), metadata=self._metadata)
        try:
            async for envelope in call:
                yield Event(envelope.topic, _created(envelope))
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None
        finally:
            call.cancel()

    async def runtime_info(self, timeout: float = 3.0) -> dict[str, str]:
        """What CRI's verbose Status says: JSON texts by name; ``config`` is CRI's configuration."""
        method = "/runtime.v1.RuntimeService/Status"
        answer = await self._call(method, cri_pb2.StatusRequest(verbose=True), cri_pb2.StatusResponse, timeout)
        return dict(answer.info)

    async def pull(self, image: str, timeout: float) -> str:
        """Let CRI pull an image, as kubelet does; the image's id."""
        request = cri_pb2.PullImageRequest(image=cri_pb2.ImageSpec(image=image))
        answer = await self._call("/runtime.v1.ImageService/PullImage", request, cri_pb2.PullImageResponse, timeout)
        return answer.image_ref

    async def remove(self, image: str, timeout: float = 30.0) -> None:
        """Let CRI remove an image, all its names and what only it used."""
        request = cri_pb2.RemoveImageRequest(image=cri_pb2.ImageSpec(image=image))
        await self._call("/runtime.v1.ImageService/RemoveImage", request, cri_pb2.RemoveImageResponse, timeout)

    async def _call(self, method: str, request: Message, answer: type[Answer], timeout: float) -> Answer:
        call = self._channel.unary_unary(
            method, request_serializer=type(request).SerializeToString, response_deserializer=answer.FromString
        )
        try:
            result: Answer = await call(request, metadata=self._metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise self._translated(error) from None
        return result

    def _translated(self, error: Any) -> StoreError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.NOT_FOUND:
            return _NotFound(details)
        if code in _AWAY:
            return StoreUnavailable(f"containerd at {self._socket} does not answer: {_plain(code, details)}")
        return StoreError(f"containerd at {self._socket} refused: {_plain(code, details)}")


class _NotFound(StoreError):
    """containerd says that there is no such thing; becomes None."""


def _plain(code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    # gRPC says where it tried before it says why: only the part after the socket's path is worth reading.
    return details.rpartition("unix:")[2].partition(": ")[2] or details or code.name


def _content(info: Any) -> ContentRecord:
    return ContentRecord(info.digest, info.size, label_sources(info.labels))


def _created(envelope: Any) -> str:
    """The digest of a ``containerd.events.ContentCreate``, whose first field it is, or nothing."""
    if envelope.topic != "/content/create":
        return ""
    return content_pb2.InfoRequest.FromString(envelope.event.value).digest
