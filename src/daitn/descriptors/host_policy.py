"""Whose models a host accepts, and under which terms (MDFP, paper II-B)."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from daitn.base import limits
from daitn.base.ids import OwnerId
from daitn.descriptors.contract import Name

Licence = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Za-z0-9.+-]*$")]
"""As SPDX names it, such as `Apache-2.0`, or `LicenseRef-…` for one of an organisation's own; empty: not stated."""

Bytes = Annotated[int, msgspec.Meta(ge=0, le=limits.ARTIFACT_BYTES)]

ANY: Final = "*"


class HostPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose models a host accepts; the host checks it itself, whatever the centre believed. `*`: any."""

    owners: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)] = (ANY,)
    signers: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)] = (ANY,)
    """Public keys (hex) that may have signed a package."""
    licences: Annotated[tuple[Name, ...], msgspec.Meta(max_length=1024)] = (ANY,)
    """A model whose provider states none is under none of those that are named here."""
    model_bytes_most: Bytes = limits.ARTIFACT_BYTES

    def faults(self, owner: OwnerId, signer: str, licence: str, model_bytes: int) -> tuple[str, ...]:
        """Every rule against a model."""
        found: list[str] = []
        if ANY not in self.owners and owner not in self.owners:
            found.append(f"models of {owner} are not accepted here")
        if ANY not in self.signers and signer not in self.signers:
            found.append(f"packages signed by {signer[:16]} are not accepted here")
        if ANY not in self.licences and licence not in self.licences:
            stated = f"under {licence}" if licence else "whose licence is not stated"
            found.append(f"models {stated} are not accepted here, only under {', '.join(self.licences)}")
        if model_bytes > self.model_bytes_most:
            found.append(f"the model has {model_bytes} bytes, {self.model_bytes_most} are accepted here")
        return tuple(found)
