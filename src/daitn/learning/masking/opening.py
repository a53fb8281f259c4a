"""Taking the masks off a sum: seeds from shares, streams from seeds, away with both.

The masks of two members that are both in the sum have cancelled. What is left is each one's own mask, whose seed the
others gave, and its masks with those who dropped out after sharing, whose mask keys the others gave. A wrong share
gives a wrong seed: for a mask key that shows (its public key is another), for an own mask it does not, and the sum is
noise, which verification rolls back.
"""

from __future__ import annotations

from daitn.base.errors import PeerError
from daitn.descriptors.masked import Unmasking
from daitn.learning.masking.ring import Ring, add_stream
from daitn.learning.masking.round_keys import mask_private, pair_key, self_key
from daitn.learning.masking.shamir import coefficients_at_zero, combine


def unmask(total: Ring, opening: Unmasking) -> None:
    """Take all masks off a sum, in place.

    PeerError where too few have answered, or a mask key comes out as another. Cost: a stream for each member in the sum
    and one for each pair of one in it and one who dropped out: S + S × D streams of the sum's length.
    """
    if not set(opening.summed) <= set(opening.sealed) <= set(range(len(opening.mask_keys))):
        raise PeerError("the sum has updates of sites that are not in the round", todo="begin another round")
    answers = {answer.rank: answer.shares for answer in opening.answers if answer.rank in opening.summed}
    if len(answers) < opening.threshold:
        raise PeerError(
            f"{len(answers)} members gave their shares, {opening.threshold} are needed",
            todo="begin another round",
        )
    asked = sorted(answers)[: opening.threshold]
    coefficients = coefficients_at_zero(asked)
    summed = set(opening.summed)
    for rank in opening.sealed:
        given = {one: answers[one][rank] if rank < len(answers[one]) else b"" for one in asked}
        if lacking := [one for one, share in given.items() if not share]:
            raise PeerError(f"member {lacking[0]} gave no share of member {rank}", todo="begin another round")
        secret = combine(given, coefficients)
        if rank in summed:
            add_stream(total, self_key(opening.round, secret), -1)
            continue
        private = mask_private(secret)
        if private.public_key().public_bytes_raw() != opening.mask_keys[rank]:
            raise PeerError(f"the shares of member {rank} are not of its mask key", todo="begin another round")
        for other in opening.summed:
            # As the one in the sum added it: plus towards higher ranks.
            key = pair_key(opening.round, private, opening.mask_keys[other])
            add_stream(total, key, -1 if other < rank else 1)
