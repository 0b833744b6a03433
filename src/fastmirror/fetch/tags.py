"""What a tag means on the other nodes."""

from __future__ import annotations

from fastmirror.fetch.parts import FetchParts
from fastmirror.oci.digest import Digest
from fastmirror.oci.reference import Reference
from fastmirror.routing import Router


async def agreed_target(reference: Reference, parts: FetchParts, router: Router) -> Digest | None:
    """The digest that a tag means on all peers that know it; None if none does, or if one differs or does not say.

    A peer that says nothing at all is not one that knows the tag: this is no protection against who can keep honest
    peers from answering.
    """
    targets: set[Digest | None] = set()
    lookup = router.find(reference)
    try:
        async for holder in lookup:
            target = holder.target
            if target is None:  # the router only knows that it has the tag
                told = await parts.asker.ask(holder.peer, reference, parts.settings.lookup_timeout)
                target = told.target if told else None
            targets.add(target)
    finally:
        await lookup.aclose()
    return targets.pop() if len(targets) == 1 else None
