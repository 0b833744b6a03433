"""All checks of one content on its way: its pieces behind the bytes that arrive, then the whole.

Everything here happens on the loop's thread; bytes are read and hashed by ``Checks``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from fastmirror._native.check import Follow, Sum, Work
from fastmirror._native.hashing import Hasher
from fastmirror.chunks.checks import Checks
from fastmirror.chunks.chunklist import PIECE, PIECE_BITS, Algorithm, Shape, piece_span
from fastmirror.chunks.trust import Convicted, Fault, Refused, Trust
from fastmirror.oci.digest import Digest
from fastmirror.oci.span import Span
from fastmirror.routing import Peer

_NOBODY: Final[frozenset[Peer]] = frozenset()
_ERRNO: Final = {"short": errno.ENODATA, "cancelled": errno.ECANCELED}


class File(Protocol):
    """Where the content's bytes are. Every :meth:`hold` keeps the descriptor open until its :meth:`release`."""

    def fileno(self) -> int:
        """The descriptor."""

    def hold(self) -> None:
        """Keep it open."""

    def release(self) -> None:
        """One hold less."""


class Watcher(Protocol):
    """Hears what became of the bytes. May call the verifier from within."""

    def verified(self, frontier: int) -> None:
        """All bytes before it may be passed on."""

    def ahead(self, span: Span) -> None:
        """These bytes beyond the frontier may be passed on."""

    def checked(self) -> None:
        """All pieces that have arrived so far were looked at."""

    def refused(self, span: Span, peers: frozenset[Peer]) -> None:
        """These bytes are wrong, or not believed: they have to come again, not from ``peers`` if others have them."""

    def convicted(self, peer: Peer, fault: Fault) -> None:
        """The peer has told or sent what is wrong: ask it for nothing more."""

    def finished(self, right: bool) -> None:
        """The content has its digest; or it has not, and nothing else can be tried. Called once, the last call."""

    def failed(self, number: int) -> None:
        """Our own file cannot be read, with this errno. Called once, the last call."""


class Subject(NamedTuple):
    """What is verified: the digest and size of a content, and how its pieces are hashed (None: not at all)."""

    digest: Digest
    size: int
    algorithm: Algorithm | None


class _Piece:
    """What has arrived of a piece that is not whole yet."""

    __slots__ = ("count", "peers")

    def __init__(self) -> None:
        self.count = 0
        self.peers: frozenset[Peer] = _NOBODY


class Verifier:
    """The checks of one content. :meth:`close` it when it is not needed any more; the watcher hears nothing after.

    Report     ``arrived`` each byte once (and again after it was refused); for lists ``expect``, ``told``, ``ended``,
               and ``sought`` when nobody is left to be asked.
    Without    an algorithm, or with more pieces than a list can have, bytes may be passed on as they arrive, and only
               the whole is checked: the last bytes have to be withheld until :meth:`Watcher.finished`.
    """

    def __init__(self, subject: Subject, file: File, checks: Checks, watcher: Watcher) -> None:
        self.subject = subject
        self.trust: Trust | None = None
        if subject.algorithm is not None and Shape(subject.size, subject.algorithm).fits:
            self.trust = Trust(Shape(subject.size, subject.algorithm).pieces)
        self._file = file
        self._checks = checks
        self._watcher: Watcher | None = watcher
        self._frontier = 0
        self._partial: dict[int, _Piece] = {}
        self._ahead: dict[int, int] = {}  # spans beyond the frontier, by their start; and by their stop:
        self._behind: dict[int, int] = {}
        self._hasher = Hasher(subject.digest.algorithm)  # has had bytes before the frontier only
        self._follow: Follow | None = None
        self._trial: Hasher | None = None
        self._stale = False  # bytes were refused since the trial began
        self._switching = False  # the follow was cancelled, to be begun again
        self._verdict: bool | None = None
        self._works: set[Work] = set()
        self._sums = 0  # under way
        self._settling = False
        if not subject.size:
            self._pursue()

    @property
    def checking(self) -> bool:
        """Whether pieces that have arrived are still being looked at; then ``Watcher.checked`` follows."""
        return self._sums > 0

    @property
    def wants_list(self) -> bool:
        """Whether the list of one more peer would help."""
        return self.trust is not None and self.trust.wants_list

    def close(self) -> None:
        """Stop; the file is released as soon as the threads have let go of it. Idempotent."""
        self._watcher = None
        for work in self._works:
            work.cancel()

    # ---- reports

    def arrived(self, peer: Peer, span: Span) -> None:
        """These bytes of the content are in the file, from this peer."""
        if self._watcher is None or span.start >= span.stop:
            return
        if self.trust is None:
            self._join(span)
            return
        whole: list[int] = []
        for index in range(span.start >> PIECE_BITS, ((span.stop - 1) >> PIECE_BITS) + 1):
            piece = self._partial.setdefault(index, _Piece())
            limits = piece_span(index, self.subject.size)
            piece.count += min(limits.stop, span.stop) - max(limits.start, span.start)
            piece.peers |= {peer}
            if piece.count == len(limits):
                whole.append(index)
        if whole:  # they are neighbours: a gap would have to be inside the span
            self._sum(whole[0], [self._partial.pop(index).peers for index in whole])

    def expect(self, peer: Peer) -> None:
        """The list of this peer was asked for."""
        if self.trust is not None and self._watcher is not None:
            self.trust.expect(peer)

    def told(self, peer: Peer, hashes: list[bytes]) -> None:
        """The next entries of the list of this peer."""
        if self.trust is not None and self._watcher is not None:
            self.trust.told(peer, hashes)
            self._settle()

    def ended(self, peer: Peer) -> None:
        """No more entries will come from this peer."""
        if self.trust is not None and self._watcher is not None:
            self.trust.ended(peer)
            self._settle()

    def waits_for(self, peer: Peer) -> tuple[int, int]:
        """See ``Trust.waits_for``."""
        return (0, -1) if self.trust is None or self._watcher is None else self.trust.waits_for(peer)

    def late(self, peer: Peer) -> None:
        """See ``Trust.late``; :meth:`again` follows."""
        if self.trust is not None and self._watcher is not None:
            self.trust.late(peer)

    def again(self) -> None:
        """Rule again, after ``late``."""
        if self.trust is not None and self._watcher is not None:
            self.trust.again()
            self._settle()

    def sought(self) -> None:
        """Nobody is left whose list could be asked for: the look-up is over, and all holders that it found were asked.

        As long as ``wants_list`` is False it need not be said. Where it is True, the next peer is to be expected
        before :meth:`ended` of the last one: else a piece that only one peer vouches for could be believed in between.
        """
        if self.trust is not None and self._watcher is not None:
            self.trust.sought()
            self._settle()

    # ---- pieces

    def _sum(self, first: int, peers: list[frozenset[Peer]]) -> None:
        assert self.subject.algorithm is not None
        start = first << PIECE_BITS
        span = Span(start, min(start + len(peers) * PIECE, self.subject.size))
        algorithm = self.subject.algorithm
        self._sums += 1
        self._begin(lambda fd, told: self._checks.sum(fd, span, algorithm, told), partial(self._summed, first, peers))

    def _summed(self, first: int, peers: list[frozenset[Peer]], work: Sum) -> None:
        assert self.trust is not None
        assert self.subject.algorithm is not None
        step = self.subject.algorithm.hash_bytes
        for number, sources in enumerate(peers):
            self.trust.holds(first + number, work.hashes[number * step : (number + 1) * step], sources)
        self._settle()
        self._sums -= 1
        if not self._sums and self._watcher is not None:
            self._watcher.checked()

    def _settle(self) -> None:
        """Tell what was ruled and go on; what the watcher reports meanwhile is told in the same turn."""
        trust = self.trust
        if trust is None or self._settling:
            return
        self._settling = True
        try:
            while rulings := trust.take():
                for ruling in rulings:
                    self._tell(ruling)
        finally:
            self._settling = False
        if trust.hopeless:
            self._finish(False)
            return
        self._show(min(trust.frontier << PIECE_BITS, self.subject.size))
        for index in trust.take_ahead():
            self._show_ahead(piece_span(index, self.subject.size))
        self._pursue()

    def _tell(self, ruling: Convicted | Refused) -> None:
        if self._watcher is None:
            return
        if isinstance(ruling, Convicted):
            self._watcher.convicted(*ruling)
        else:
            self._stale = True
            self._watcher.refused(piece_span(ruling.piece, self.subject.size), ruling.peers)

    def _show(self, frontier: int) -> None:
        if self._watcher is not None and frontier > self._frontier:
            self._frontier = frontier
            self._watcher.verified(frontier)

    def _show_ahead(self, span: Span) -> None:
        if self._watcher is not None:
            self._watcher.ahead(span)

    def _join(self, span: Span) -> None:
        """Without lists: how far the bytes are there without a gap."""
        start, stop = self._behind.pop(span.start, span.start), self._ahead.pop(span.stop, span.stop)
        self._ahead.pop(start, None)
        self._behind.pop(stop, None)
        if start <= self._frontier:
            self._show(stop)
        else:
            self._ahead[start] = stop
            self._behind[stop] = start
            self._show_ahead(span)
        self._pursue()

    # ---- the whole

    def _pursue(self) -> None:
        """Let the hasher follow the frontier; or, where only the digest can tell what is right, try with all bytes."""
        if self._watcher is None or self._verdict is not None:
            return
        undecided = self.trust is not None and self.trust.undecided
        if self._follow is None:
            self._trial = self._hasher.copy() if undecided else None
            self._stale = self._switching = False
            self._begin(partial(self._begin_follow, self._trial or self._hasher), self._followed)
        if self._follow is None:
            return
        if self._stale if self._trial is not None else undecided:
            self._switching = True
            self._follow.cancel()
        else:
            self._follow.advance(self.subject.size if self._trial is not None else self._frontier)

    def _begin_follow(self, hasher: Hasher, fd: int, told: Callable[[Follow], object]) -> Follow:
        self._follow = self._checks.follow(fd, hasher, self.subject.size, told)
        return self._follow

    def _followed(self, work: Follow) -> None:
        trial, self._trial, self._follow = self._trial, None, None
        if work.outcome == "cancelled" or (trial is not None and self._stale):
            self._pursue()
            return
        right = (trial or self._hasher).hexdigest() == self.subject.digest.hex
        if right or self.trust is None:
            self._verdict = right
        if self.trust is not None:
            self.trust.whole(right)
            self._settle()
        if self._verdict is not None:
            self._finish(self._verdict)

    def _finish(self, right: bool) -> None:
        watcher = self._watcher
        if watcher is not None:
            self.close()
            watcher.finished(right)

    # ---- works

    def _begin(self, begin: Callable[[int, Callable[..., object]], Work], told: Callable[..., object]) -> None:
        self._file.hold()
        try:
            self._works.add(begin(self._file.fileno(), partial(self._over, told)))
        except OSError as error:
            self._file.release()
            self._fail(error.errno or 0)

    def _over(self, told: Callable[..., object], work: Work) -> None:
        self._works.discard(work)
        self._file.release()
        if self._watcher is None:
            return
        if work.outcome != "complete" and not (work is self._follow and self._switching):
            self._fail(_ERRNO.get(work.outcome, work.errno))
        else:
            told(work)

    def _fail(self, number: int) -> None:
        watcher = self._watcher
        if watcher is not None:
            self.close()
            watcher.failed(number)
