"""One member of a masked round: its secrets, what it seals for the others, its mask, and what it tells afterwards.

The secrets of a round live here, in memory, and nowhere else: a site that restarts has dropped out of the round, which
the others survive. What a member must never do is tell shares of both secrets of one other: with both, that one's
update could be unmasked. So it answers one question per round, and answers that again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from daitn.artifacts.signatures import public_hex
from daitn.base.errors import PeerError, PolicyError, UnavailableError
from daitn.base.ids import NodeId
from daitn.descriptors.masked import MEMBERS_LEAST, Masking, MaskMember, RoundKeys, threshold_of
from daitn.learning.masking.ring import Ring, add_stream
from daitn.learning.masking.round_keys import (
    Sealer,
    check_member,
    mask_private,
    pair_key,
    public_keys,
    self_key,
)
from daitn.learning.masking.shamir import SHARE_BYTES, draw_secret, split

ROUNDS_REMEMBERED: Final = 256
"""Rounds whose secrets a site keeps: one for each job that may run with it, many times over. The oldest are forgotten,
and with them the round."""


class _Round:
    """A site's secrets of one round."""

    def __init__(self, name: str, job: str, draw: Callable[[], int]) -> None:
        self.name = name
        self.job = job
        self.mask_secret = draw()
        self.self_seed = draw()
        self.mask = mask_private(self.mask_secret)
        self.seal = X25519PrivateKey.generate()
        self.members: tuple[MaskMember, ...] = ()
        self.rank = -1
        self.sealed: tuple[bytes, ...] = ()
        self.shares: dict[int, bytes] = {}
        """What others sealed for this site, opened: a share of each secret, by rank."""
        self.masked = False
        self.answered: tuple[frozenset[int], tuple[bytes, ...]] | None = None


class SiteMasks:
    """See the module's docstring. `draw`: secrets of the field."""

    def __init__(self, node: NodeId, signing: Ed25519PrivateKey, draw: Callable[[], int] = draw_secret) -> None:
        self.node = node
        self._signing = signing
        self._draw = draw
        self._rounds: OrderedDict[str, _Round] = OrderedDict()

    def agree(self, name: str, job: str) -> RoundKeys:
        """Keys for a round of a job, the same when asked again; the job's earlier rounds are over and forgotten."""
        known = self._rounds.get(name)
        if known is None:
            self.forget(job)
            known = self._rounds[name] = _Round(name, job, self._draw)
            while len(self._rounds) > ROUNDS_REMEMBERED:
                self._rounds.popitem(last=False)
        return public_keys(name, self.node, known.mask, known.seal, self._signing)

    def seal(self, name: str, members: Sequence[MaskMember]) -> tuple[bytes, ...]:
        """Shares of this site's secrets, sealed for each member, by rank; empty for itself.

        PeerError where a member's keys are not signed by it, or members are twice in the list; PolicyError where they
        are too few, or other ones than before. Cost: two key agreements a member, O(members²) multiplications.
        """
        mine = self._round(name)
        if len(members) < MEMBERS_LEAST:
            raise PolicyError(f"{len(members)} sites are too few to hide in", todo=f"at least {MEMBERS_LEAST}")
        if mine.members:
            if tuple(members) != mine.members:
                raise PolicyError(f"round {name[:80]} had other members before", todo="begin another round")
            return mine.sealed
        keys = {key for member in members for key in (member.keys.mask, member.keys.seal)}
        if len({member.node for member in members}) < len(members) or len(keys) < 2 * len(members):
            raise PeerError(f"a site is twice in round {name[:80]}")
        own = (mine.mask.public_key().public_bytes_raw(), public_hex(self._signing))
        ranks = [rank for rank, one in enumerate(members) if (one.keys.mask, one.signer) == (own[0], own[1])]
        if len(ranks) != 1 or members[ranks[0]].node != self.node:
            raise PeerError(f"round {name[:80]} does not have the keys that this site made for it")
        for member in members:
            check_member(name, member)
        rank, count = ranks[0], len(members)
        threshold = threshold_of(count)
        mask_shares = split(mine.mask_secret, threshold, count, self._draw)
        self_shares = split(mine.self_seed, threshold, count, self._draw)
        mine.shares[rank] = mask_shares[rank] + self_shares[rank]
        mine.sealed = tuple(
            b""
            if other == rank
            else Sealer(name, mine.seal, member.keys.seal).seal(rank, other, mask_shares[other] + self_shares[other])
            for other, member in enumerate(members)
        )
        mine.members, mine.rank = tuple(members), rank
        return mine.sealed

    def mask(self, masking: Masking, update: Ring) -> None:
        """Hide an update, in place: the site's own mask and one for each member that sealed shares for it.

        PeerError where shares were changed on their way; PolicyError where there are too few, or the round was used
        before: a second update under the same masks would show the difference of both. Cost: a stream a member.
        """
        mine = self._round(masking.round)
        if not mine.members or masking.rank != mine.rank or len(masking.sealed) != len(mine.members):
            raise PolicyError(
                f"round {masking.round[:80]} was agreed on with other members", todo="begin another round"
            )
        if mine.masked:
            raise PolicyError(f"round {masking.round[:80]} has been used here", todo="begin another round")
        others = [rank for rank, sealed in enumerate(masking.sealed) if sealed and rank != mine.rank]
        if len(others) + 1 < threshold_of(len(mine.members)):
            raise PolicyError(
                f"{len(others) + 1} of {len(mine.members)} sites have shared their seeds",
                todo=f"at least {threshold_of(len(mine.members))} must have",
            )
        for rank in others:
            sealer = Sealer(mine.name, mine.seal, mine.members[rank].keys.seal)
            shares = sealer.unseal(rank, mine.rank, masking.sealed[rank])
            if len(shares) != 2 * SHARE_BYTES:
                raise PeerError(f"member {rank} sealed {len(shares)} bytes, not two shares")
            mine.shares[rank] = shares
        mine.masked = True
        add_stream(update, self_key(mine.name, mine.self_seed), 1)
        for rank in others:
            key = pair_key(mine.name, mine.mask, mine.members[rank].keys.mask)
            add_stream(update, key, 1 if mine.rank < rank else -1)

    def unmask(self, name: str, summed: Sequence[int]) -> tuple[bytes, ...]:
        """A share for each member, by rank: of its own mask's seed where its update is in the sum, of its mask key
        where it is not; empty where this site has none of it.

        PolicyError where too few are in the sum, this site is not among them, or the round was asked for another sum.
        """
        mine = self._round(name)
        wanted = frozenset(summed)
        if mine.answered is not None:
            if mine.answered[0] != wanted:
                raise PolicyError(
                    f"round {name[:80]} was opened for another sum", todo="look at the centre: it asks for both"
                )
            return mine.answered[1]
        if not mine.masked or mine.rank not in wanted or not wanted <= set(mine.shares):
            raise PolicyError(f"this site's update is not in the sum of round {name[:80]}, or a stranger's is")
        if len(wanted) < threshold_of(len(mine.members)):
            raise PolicyError(
                f"the sum has {len(wanted)} of {len(mine.members)} updates",
                todo=f"at least {threshold_of(len(mine.members))} must be in it",
            )
        answer = tuple(
            (held[SHARE_BYTES:] if rank in wanted else held[:SHARE_BYTES]) if (held := mine.shares.get(rank)) else b""
            for rank in range(len(mine.members))
        )
        mine.answered = (wanted, answer)
        return answer

    def forget(self, job: str) -> None:
        """No round of this job is under way any more."""
        for name in [name for name, known in self._rounds.items() if known.job == job]:
            del self._rounds[name]

    def _round(self, name: str) -> _Round:
        found = self._rounds.get(name)
        if found is None:
            raise UnavailableError(
                f"this site has no keys for round {name[:80]}: it has restarted since, or the round is over"
            )
        return found
