"""Two nodes as users have them: a containerd each, a fastmirror in front of it, and an origin registry behind."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from tests.kit.cluster import free_port, loopback_hosts
from tests.kit.containerd import Containerd, Generation, Pulled, containerd, write_hosts
from tests.kit.images import Image
from tests.kit.origin import Origin
from tests.kit.process import Node, Setup
from tests.kit.waiting import eventually
from tests.kit.wire import ask


class Two:
    """Two containerds, and the mirror in front of the first: what tests may share. Owned by a ``with`` block.

    ``holder`` has what it pulled from the origin, and its mirror has no peers: nothing of a test stays in it. A test
    that ends the mirror has a Two of its own over the same containerds.
    """

    def __init__(self, holder: Containerd, puller: Containerd) -> None:
        self.holder, self.puller = holder, puller
        self.host = loopback_hosts(1)[0]
        self.port = free_port(self.host)
        self._stack = contextlib.ExitStack()
        self._mirror: Node | None = None

    def mirror(self) -> Node:
        """The holder's mirror, started again at the same address if a test has ended it."""
        if self._mirror is None or not self._mirror.alive:
            setup = Setup(f"containerd:{self.holder.socket}", host=self.host, peer_port=self.port)
            self._mirror = self._stack.enter_context(Node(setup))
        return self._mirror

    def __enter__(self) -> Self:
        self.mirror()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)  # type: ignore[arg-type]


@contextlib.contextmanager
def two(generation: Generation, **puller: Any) -> Iterator[Two]:
    """Two fresh containerds of one generation; the keywords are the second's."""
    with containerd(generation) as holder, containerd(generation, **puller) as other, Two(holder, other) as made:
        yield made


@dataclass
class Pair:
    """The first of ``two`` has what it pulled from the origin; the second asks its own mirror first, which asks the
    first one's.

    ``peers`` are asked before the holder's mirror. The puller's mirror is started by :meth:`start` and restarted by a
    test that ended it; it is stopped, and the logs are judged, with the block of :func:`pair`. ``module`` is what
    Python runs for it.
    """

    origin: Origin
    two: Two
    stack: contextlib.ExitStack
    peers: Sequence[str] = ()
    flags: dict[str, Any] = field(default_factory=dict)
    tags: bool = True
    supervise: bool = False
    module: str = "fastmirror"
    host: str = ""
    port: int = 0
    theirs: Node | None = None
    ours: Node | None = None

    @property
    def holder(self) -> Containerd:
        """Who has the images."""
        return self.two.holder

    @property
    def puller(self) -> Containerd:
        """Who pulls them."""
        return self.two.puller

    def start(self) -> None:
        """Start what does not run yet and send the puller to its own mirror."""
        self.theirs = self.two.mirror()
        self.host = loopback_hosts(1)[0]
        self.port = free_port(self.host)
        self.start_ours()
        self.configure()

    def start_ours(self) -> Node:
        """Start the puller's mirror, again at the same address."""
        peers = [*self.peers, f"{self.two.host}:{self.two.port}"]
        flags = {"resolve_tags": "true", **self.flags} if self.tags else dict(self.flags)
        setup = Setup(
            f"containerd:{self.puller.socket}",
            host=self.host,
            registry_port=self.port,
            peers=peers,
            flags=flags,
            switches=("--supervise",) if self.supervise else (),
            module=self.module,
        )
        self.ours = self.stack.enter_context(Node(setup))
        return self.ours

    @property
    def mirror(self) -> str:
        """The URL of the puller's mirror."""
        return f"http://{self.host}:{self.port}"

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
        pulled = self.holder.pull("ctr", image.name)
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
def pair(origin: Origin, both: Two, **more: Any) -> Iterator[Pair]:
    """Two nodes with both mirrors running."""
    with contextlib.ExitStack() as stack:
        made = Pair(origin, both, stack, **more)
        made.start()
        yield made
    assert made.theirs is not None
    assert not made.theirs.log.problems(), made.theirs.log.problems()
