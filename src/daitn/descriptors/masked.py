"""Masked rounds: what sites tell one another, through the centre, so that an aggregator learns a sum and no update.

Secure aggregation (K. Bonawitz et al., CCS 2017). Ranks are places in a round's list of members, which all of them are
given in the same order. Keys and sealed shares are opaque bytes to the centre, which carries them.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base.ids import DataSetId, NodeId

MEMBERS_LEAST: Final = 3
"""Fewer sites would learn each other's update from the sum."""

MEMBERS_MOST: Final = 128
"""Sites in one masked round: each sends a sealed share to every other, so an order to open a round of this many is half
a control message."""

RoundName = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""Names a masked round within its domain: the centre's word for it, the same to all members."""

Rank = Annotated[int, msgspec.Meta(ge=0, lt=MEMBERS_MOST)]
Key = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Share = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
"""A point of a secret's polynomial: a number below 2^255 - 19, little-endian."""
Sealed = Annotated[bytes, msgspec.Meta(max_length=128)]
"""Two shares for one member, which nobody else can read; empty for the one who made them."""


class RoundKeys(msgspec.Struct, frozen=True, kw_only=True):
    """A site's public X25519 keys for one round, and its Ed25519 signature over round, node and both."""

    mask: Key
    """What the masks between two members come from."""
    seal: Key
    """What shares for this member are sealed with."""
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class MaskMember(msgspec.Struct, frozen=True, kw_only=True):
    """A site of a masked round. `signer`: its public key, as it stands in its description."""

    node: NodeId
    dataset: DataSetId
    signer: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    keys: RoundKeys


Members = Annotated[tuple[MaskMember, ...], msgspec.Meta(min_length=MEMBERS_LEAST, max_length=MEMBERS_MOST)]


class FixedPoint(msgspec.Struct, frozen=True, kw_only=True):
    """How an update becomes numbers that can be added exactly: whole numbers of 32 bits, that wrap around.

    A site's share of the mean is `min(1, records / records_most)`; what it adds is that share of its update, in units
    so small that the sum of all members' largest possible values still fits.
    """

    norm_most: Annotated[float, msgspec.Meta(gt=0, le=1e9)]
    """Euclidean norm of an update at most; a longer one is made as short by its site, since nobody else sees it."""
    records_most: Annotated[float, msgspec.Meta(gt=0, le=1e15)]
    """Records from which a site has no more say."""
    members: Annotated[int, msgspec.Meta(ge=1, le=MEMBERS_MOST)]

    @property
    def units(self) -> float:
        """Units of the sum in a change of 1."""
        return ((1 << 31) - 1 - self.members) / (self.members * self.norm_most)

    def share_of(self, records: float) -> float:
        """A site's weight in the mean, 0 to 1."""
        return min(1.0, records / self.records_most)


class Masking(msgspec.Struct, frozen=True, kw_only=True):
    """How a visit's update is hidden: its place in a round that its site has agreed keys for."""

    round: RoundName
    rank: Rank
    sealed: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=MEMBERS_MOST)]
    """What each member sealed for this one, by rank; empty for its own and for those who sealed nothing: their masks
    are left out."""
    fixed: FixedPoint


class AgreeWork(msgspec.Struct, frozen=True, kw_only=True, tag="agree"):
    """Make keys for a masked round, in which `dataset` is to be trained on."""

    round: RoundName
    dataset: DataSetId


class SealWork(msgspec.Struct, frozen=True, kw_only=True, tag="seal"):
    """Share the seeds of this site's masks among the members, sealed for each of them."""

    round: RoundName
    dataset: DataSetId
    members: Members


class UnmaskWork(msgspec.Struct, frozen=True, kw_only=True, tag="unmask"):
    """Tell the shares that take the masks off a sum of these members' updates."""

    round: RoundName
    dataset: DataSetId
    members: Annotated[int, msgspec.Meta(ge=MEMBERS_LEAST, le=MEMBERS_MOST)]
    summed: Annotated[tuple[Rank, ...], msgspec.Meta(min_length=1, max_length=MEMBERS_MOST)]


MaskWork = AgreeWork | SealWork | UnmaskWork
"""What a site does for a masked round besides training: milliseconds, in the node itself."""


class AgreeOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="agree"):
    """A site's keys for the round."""

    keys: RoundKeys


class SealOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="seal"):
    """What a site sealed for each member, by rank; empty for itself."""

    sealed: Annotated[tuple[Sealed, ...], msgspec.Meta(max_length=MEMBERS_MOST)]


class UnmaskOutcome(msgspec.Struct, frozen=True, kw_only=True, tag="unmask"):
    """A share for each member, by rank: of its own mask where it is in the sum, of its mask key where it is not."""

    shares: Annotated[tuple[Annotated[bytes, msgspec.Meta(max_length=32)], ...], msgspec.Meta(max_length=MEMBERS_MOST)]


def answers_mask_work(work: object, outcome: object) -> bool:
    """Whether an outcome is an answer to a piece of work for a masked round."""
    match work, outcome:
        case AgreeWork(), AgreeOutcome():
            return True
        case SealWork(members=members), SealOutcome(sealed=sealed):
            return len(sealed) == len(members)
        case UnmaskWork(members=count), UnmaskOutcome(shares=shares):
            return len(shares) == count and all(len(share) in (0, 32) for share in shares)
        case _:
            return False


class SharesOf(msgspec.Struct, frozen=True, kw_only=True):
    """One member's answer about all others: for each rank one share, of one of its two secrets; empty where it has
    none."""

    rank: Rank
    shares: Annotated[tuple[Annotated[bytes, msgspec.Meta(max_length=32)], ...], msgspec.Meta(max_length=MEMBERS_MOST)]


class Unmasking(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to take the masks off a sum, and nothing that takes one off a single update."""

    round: RoundName
    mask_keys: Annotated[tuple[Key, ...], msgspec.Meta(max_length=MEMBERS_MOST)]
    """The members' public mask keys, by rank."""
    sealed: Annotated[tuple[Rank, ...], msgspec.Meta(max_length=MEMBERS_MOST)]
    """Whose masks are in the updates: those who sealed shares for the others."""
    summed: Annotated[tuple[Rank, ...], msgspec.Meta(min_length=1, max_length=MEMBERS_MOST)]
    """Whose updates are in the sum."""
    threshold: Annotated[int, msgspec.Meta(ge=2, le=MEMBERS_MOST)]
    answers: Annotated[tuple[SharesOf, ...], msgspec.Meta(max_length=MEMBERS_MOST)]
    fixed: FixedPoint
    weight: Annotated[float, msgspec.Meta(gt=0, le=MEMBERS_MOST)]
    """The sum of the weights of those in the sum."""


def threshold_of(members: int) -> int:
    """How many must answer before a mask comes off: more than two thirds, so that no two sets of that size, asked for
    different sums, have fewer than a third of the members in common, who refuse the second."""
    return 2 * members // 3 + 1
