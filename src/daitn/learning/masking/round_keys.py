"""Keys of one masked round: who signed them, what two members have in common, and shares sealed for one of them.

Every key is made for one round and used for one purpose: X25519 for what two members share, HKDF-SHA256 with the
round's name and the purpose for what comes of it, AES-256-GCM for shares. Each sealing key is used for two messages at
most (one each way), which differ in their nonce.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from daitn.artifacts.signatures import public_key, sign_in_domain, verify_in_domain
from daitn.base.errors import PeerError
from daitn.base.ids import NodeId
from daitn.descriptors.masked import MaskMember, RoundKeys
from daitn.learning.masking.shamir import SHARE_BYTES

KEYS_DOMAIN: Final = "daitn 1 keys of a masked round"
_PAIR: Final = "daitn 1 mask of two"
_SELF: Final = "daitn 1 mask of one"
_SEAL: Final = "daitn 1 sealed shares"
_KEY_BYTES: Final = 32


def public_keys(
    round_name: str, node: NodeId, mask: X25519PrivateKey, seal: X25519PrivateKey, signing: Ed25519PrivateKey
) -> RoundKeys:
    """What a site tells the others of its keys, signed."""
    keys = (mask.public_key().public_bytes_raw(), seal.public_key().public_bytes_raw())
    signature = sign_in_domain(KEYS_DOMAIN, _statement(round_name, node, *keys), signing)
    return RoundKeys(mask=keys[0], seal=keys[1], signature=signature)


def check_member(round_name: str, member: MaskMember) -> None:
    """PeerError unless the member's signer has signed these keys for this round and node."""
    statement = _statement(round_name, member.node, member.keys.mask, member.keys.seal)
    if not verify_in_domain(KEYS_DOMAIN, statement, member.keys.signature, public_key(member.signer)):
        raise PeerError(
            f"the keys of {member.node} for round {round_name[:80]} are not signed by {member.signer[:16]}…",
            todo="the centre has passed on keys that are not that site's: look at the centre",
        )


def pair_key(round_name: str, own: X25519PrivateKey, other: bytes) -> bytes:
    """The key (32 bytes) of the mask between two members, the same from either side."""
    return _derive(_PAIR, round_name, _agree(own, other))


def self_key(round_name: str, seed: int) -> bytes:
    """The key of the mask that is a member's own."""
    return _derive(_SELF, round_name, seed.to_bytes(SHARE_BYTES, "little"))


def mask_private(secret: int) -> X25519PrivateKey:
    """The private mask key that a secret of the field is."""
    return X25519PrivateKey.from_private_bytes(secret.to_bytes(SHARE_BYTES, "little"))


class Sealer:
    """Seals and opens shares between a member (`rank`) and one other."""

    def __init__(self, round_name: str, own: X25519PrivateKey, other: bytes) -> None:
        self._cipher = AESGCM(_derive(_SEAL, round_name, _agree(own, other)))
        self._round = round_name

    def seal(self, sender: int, receiver: int, shares: bytes) -> bytes:
        """Shares for the other. Once for each way of a round."""
        return self._cipher.encrypt(*self._bound(sender, receiver, shares))

    def unseal(self, sender: int, receiver: int, sealed: bytes) -> bytes:
        """Shares from the other; PeerError where they were changed, or meant for somebody else."""
        nonce, data, bound = self._bound(sender, receiver, sealed)
        try:
            return self._cipher.decrypt(nonce, data, bound)
        except InvalidTag:
            raise PeerError(f"the shares that member {sender} sealed for member {receiver} were changed") from None

    def _bound(self, sender: int, receiver: int, data: bytes) -> tuple[bytes, bytes, bytes]:
        nonce = sender.to_bytes(6, "little") + receiver.to_bytes(6, "little")
        return nonce, data, self._round.encode()


def _statement(round_name: str, node: NodeId, mask: bytes, seal: bytes) -> bytes:
    return msgspec.msgpack.encode((round_name, node, mask, seal))


def _agree(own: X25519PrivateKey, other: bytes) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise PeerError(f"{other.hex()} is no X25519 key to agree on anything with") from None


def _derive(purpose: str, round_name: str, secret: bytes) -> bytes:
    info = msgspec.msgpack.encode((purpose, round_name))
    return HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(secret)
