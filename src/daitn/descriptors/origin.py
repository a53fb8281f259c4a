"""Where a model that arrives comes from: what its receiver compares it with before it uses it.

A site checks what it hands on, and one that lies skips its own check. So whoever receives looks again: before a byte of
the weights moves, at the manifest; before they are used, at the numbers.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from daitn.base.ids import ArtifactId, VisitId

UnfitFault = Literal["manifest", "foreign", "shape", "oversized", "weights", "signer", "not-finite"]
"""What is wrong with a model: its manifest is none; another job or visit made it; it has other tensors than the
package; it carries more than training leaves; its weights are not those that its maker signed for; graph or contract
are not the owner's; a number in it is not finite."""

Digest = Annotated[str, msgspec.Meta(max_length=64)]


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What the control centre knows of a model that a visit made."""

    visit: VisitId
    """The visit, or the group of visits, that made it."""
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    """Of the package that it was made from."""
    shapes: Digest
    """Of the package's tensors (`learning.numerics.likeness.shapes_digest`); empty: not known."""
    weights: Digest
    """Of its own, as its maker signed (`learning.numerics.likeness.weights_digest`); empty: not known."""


class Unfit(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a visit was given and cannot use, because of who made it. What a site says so is no proof."""

    artifact: ArtifactId
    fault: UnfitFault
