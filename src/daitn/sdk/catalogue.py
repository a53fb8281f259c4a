"""The catalogue at the owner: models of known families are packed and signed here, as the owner's own variants.

Nothing executable travels, and a domain takes only packages that somebody answers for: so the catalogue's models
(`daitn.learning.catalogue`) are made where the owner's are, exported and signed like them, and declared as variants
(decision 0048). torch is imported only when one is packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daitn.base.errors import InputError
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.request import VARIANTS_MOST

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from daitn.artifacts.layout import Buffer

PREFIX: Final = "catalogue: "
"""What the names of its packages begin with."""


def pack_catalogue(
    parts: Mapping[str, Buffer], folder: Path, *, key: Ed25519PrivateKey, declared: int = 0
) -> list[Path]:
    """Write the catalogue's models for the contract among a package's `parts` as packages signed with `key` below
    `folder`: their folders. At most as many as a request may declare beside `declared` variants; none where the
    catalogue has none for the contract. Cost: 0.3 to 2 s each."""
    from daitn.learning.catalogue.models import catalogue_models
    from daitn.sdk.packaging import package_module

    contract = decode_contract(bytes(parts["contract"]), "the package's contract")
    tokenizer = bytes(parts["tokenizer"]) if "tokenizer" in parts else None
    found: list[Path] = []
    for family, model in catalogue_models(contract, tokenizer=tokenizer).items():
        if declared + len(found) < VARIANTS_MOST:
            package_module(model, contract, folder / family, key=key, name=PREFIX + family, tokenizer=tokenizer)
            found.append(folder / family)
    return found


def owner_key(key: Ed25519PrivateKey | Path, signer: str) -> Ed25519PrivateKey:
    """The key to sign variants with. InputError where it is not the one that the package was signed with (`signer`)."""
    from daitn.artifacts.signatures import load_key, public_hex

    loaded = load_key(key) if isinstance(key, Path) else key
    if public_hex(loaded) != signer:
        where = f" in {key}" if isinstance(key, Path) else ""
        raise InputError(
            f"the package is signed with {signer[:16]}…, the key{where} is {public_hex(loaded)[:16]}…",
            todo="give the key that the package is signed with: models of the catalogue are signed with it too",
        )
    return loaded
