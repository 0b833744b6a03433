"""Two nodes as users have them: a containerd each, a fastmirror in front of it, and an origin registry behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.kit.cluster import free_port, loopback_hosts
from tests.kit.containerd import Containerd, Pulled, write_hosts
from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.process import Node, Setup
from tests.kit.waiting import eventually
from tests.kit.wire import ask


@dataclass
class Pair:
    """``holder`` has what it pulled from the origin; ``puller`` asks its own mirror first, which asks the holder's.

    ``peers`` are asked before the holder's mirror. The mirrors are started by :meth:`start` and restarted by a test
    that ended one; both are stopped, and their logs judged, with the block of :func:`pair`.
    """

    origin: Origin
    holder: Containerd
    puller: Containerd
    stack: contextlib.ExitStack
    peers: Sequence[str] = ()
    flags: dict[str, Any] = field(default_factory=dict)
    tags: bool = True
    supervise: bool = False
    hosts: tuple[str, str] = ("", "")
    ports: tuple[int, int] = (0, 0)
    theirs: Node | None = None
    ours: Node | None = None

    def start(self) -> None:
        """Start both mirrors and send the puller to its own."""
        self.hosts = (loopback_hosts(1)[0], loopback_hosts(1)[0])
        self.ports = (free_port(self.hosts[0]), free_port(self.hosts[1]))
        self.start_theirs()
        self.start_ours()
        self.configure()

    def start_theirs(self) -> Node:
        """Start the holder's mirror, again at the same address."""
        setup = Setup(f"containerd:{self.holder.socket}", host=self.hosts[0], peer_port=self.ports[0])
        self.theirs = self.stack.enter_context(Node(setup))
        return self.theirs

    def start_ours(self) -> Node:
        """Start the puller's mirror, again at the same address."""
        peers = [*self.peers, f"{self.hosts[0]}:{self.ports[0]}"]
        flags = {"resolve_tags": "true", **self.flags} if self.tags else dict(self.flags)
        store = f"containerd:{self.puller.socket}"
        setup = Setup(
            store,
            host=self.hosts[1],
            registry_port=self.ports[1],
            peers=peers,
            flags=flags,
            switches=("--supervise",) if self.supervise else (),
        )
        self.ours = self.stack.enter_context(Node(setup))
        return self.ours

    @property
    def mirror(self) -> str:
        """The URL of the puller's mirror."""
        return f"http://{self.hosts[1]}:{self.ports[1]}"

    def configure(self) -> None:
        """hosts.toml of both: the holder goes to the origin, the puller to its mirror and then to the origin."""
        write_hosts(self.holder, "registry.test", [], self.origin.url)
        write_hosts(self.puller, "registry.test", [self.mirror], self.origin.url, tags=self.tags)

    def publish(self, image: Image) -> None:
        """Put an image into the origin."""
        image.write(self.origin.layout)

    def hold(self, image: Image) -> None:
        """Publish an image and let the holder pull it."""
        self.publish(image)
        pulled = self.holder.pull("cri", image.name)
        assert pulled, pulled
        try:
            eventually(lambda: self.offered(image), "the holder's mirror has all of it")
        except AssertionError as error:
            assert self.theirs is not None
            raise AssertionError(f"{error}: {self.answers(image)}\n" + "\n".join(self.theirs.log.lines)) from None
        self.origin.forget()

    def end_child(self, how: str) -> None:
        """Send a signal to the serving process of the supervised puller's mirror."""
        assert self.ours is not None
        child = self.ours.child
        if child is not None:
            os.kill(child, signal.Signals[how])

    def pull(self, client: str, image: Image, seconds: float = 60.0) -> Pulled:
        """Let the puller pull; what it has afterwards is compared with what the image is."""
        pulled = self.puller.pull(client, image.name, seconds)
        if pulled:
            self.check(image)
        return pulled

    def knows(self, image: Image) -> bool:
        """Whether the puller's mirror resolves the tag."""
        assert self.ours is not None
        repository, _, tag = image.name.partition("/")[2].rpartition(":")
        return self.ours.ask("HEAD", f"/v2/{repository}/manifests/{tag}?ns=registry.test").status == 200

    def offered(self, image: Image) -> bool:
        """Whether the holder's mirror offers all of the image to other nodes, by its tag too."""
        return set(self.answers(image).values()) == {200}

    def answers(self, image: Image) -> dict[str, int]:
        """What the holder's mirror answers to HEADs of all of the image, and of its tag."""
        assert self.theirs is not None
        repository, _, tag = image.name.partition("/")[2].rpartition(":")
        targets = [f"/v2/{repository}/blobs/{digest}?ns=registry.test" for digest in image.blobs]
        targets.append(f"/v2/{repository}/manifests/{tag}?ns=registry.test")
        return {target: ask(self.theirs.peer, "HEAD", target).status for target in targets}

    def check(self, image: Image) -> None:
        """The puller has every byte of the image, and it is right."""
        for digest, content in image.blobs.items():
            assert self.puller.path(digest).read_bytes() == content

    def from_origin(self) -> int:
        """Body bytes that the origin has sent since it forgot."""
        return self.origin.body_bytes()


@contextlib.contextmanager
def pair(origin: Origin, holder: Containerd, puller: Containerd, **more: Any) -> Iterator[Pair]:
    """Two nodes with both mirrors running."""
    with contextlib.ExitStack() as stack:
        made = Pair(origin, holder, puller, stack, **more)
        made.start()
        yield made
