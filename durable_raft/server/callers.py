"""Who is at the other end of an accepted link: a claim, until the node that it names has confirmed it.

Everybody who knows an address can dial it and say any name. So a node believes the address that it was configured with,
not the name: each Hello carries a challenge, 16 random bytes of this one link, and the node that was dialled asks for
it on the link that it dialled itself, to the address of the node that is named (``Confirm``). Only whoever listens
there can have sent the challenge, and says so (``Confirmed``). Until then the link is a claim: it is heard no further,
told nothing, bounded in bytes and time, and the oldest goes when there are too many.

So a stranger can speak for nobody, whatever he knows of the cluster, unless he listens at a member's address or reads
what passes there. Against those the cluster secret helps (proving.py). Its proof shows that whoever dials belongs to
the cluster; which of its nodes it is, this shows.
"""

from __future__ import annotations

from typing import Final, Protocol

from durable_raft.raft.types import NodeId

CHALLENGE_BYTES: Final = 16

OPEN_MAX: Final = 128
"""Links that are open at one time without a proof of who dialled."""

OPEN_PER_ADDRESS_MAX: Final = 16
"""The same, of one host."""


class Claimant(Protocol):
    """An accepted link that is not proven yet."""

    def drop(self) -> None:
        """End the link: others need its place."""

    def confirmed(self) -> None:
        """Whoever was named has dialled this link."""


class Callers:
    """The accepted links of one node that are not proven yet."""

    def __init__(self) -> None:
        self._open: dict[Claimant, str] = {}
        """In the order in which they came, and from which host."""
        self._callers: dict[tuple[NodeId, bytes], Claimant] = {}
        """By the node that is named and the challenge."""

    def opened(self, link: Claimant, host: str) -> None:
        """Note a new link; the oldest of the same host, or of all, makes room for it."""
        same = [other for other, its_host in self._open.items() if its_host == host]
        if len(same) >= OPEN_PER_ADDRESS_MAX:
            self._drop(same[0])
        elif len(self._open) >= OPEN_MAX:
            self._drop(next(iter(self._open)))
        self._open[link] = host

    def _drop(self, link: Claimant) -> None:
        self.closed(link)
        link.drop()

    def claim(self, link: Claimant, peer: NodeId, challenge: bytes) -> None:
        """Note who ``link`` says has dialled it, to be confirmed by ``peer``."""
        self._callers[peer, challenge] = link

    def proved(self, link: Claimant) -> None:
        """Note that whoever dialled ``link`` belongs to the cluster: no stranger takes its place any more."""
        self._open.pop(link, None)

    def of(self, peer: NodeId) -> list[bytes]:
        """Return the challenges that ``peer`` is to be asked about."""
        return [challenge for claimed, challenge in self._callers if claimed == peer]

    def confirm(self, peer: NodeId, challenge: bytes) -> bool:
        """Note that ``peer`` says it has dialled the link with ``challenge``; return whether there is such a claim."""
        link = self._callers.get((peer, challenge))
        if link is None:
            return False
        self.closed(link)
        link.confirmed()
        return True

    def closed(self, link: Claimant) -> None:
        """Forget a link that ended, or is proven."""
        self._open.pop(link, None)
        for key in [key for key, claimant in self._callers.items() if claimant is link]:
            del self._callers[key]
