"""What a visit is given, looked at before it is used: the owner's graph, its maker's weights, numbers that are finite.

A site looks at what it makes before it hands it on, and whoever receives a model looks again, since one that lies skips
its own check. What is wrong with a model that another site made is `UnfitError`: neither this site's fault nor its
data's. Where the manifest alone tells, `Moving` has refused it before a byte of the weights moved.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from daitn.artifacts.manifest import Manifest, TensorEntry
from daitn.artifacts.signatures import verify_parts
from daitn.base.errors import DaitnError, InputError, PolicyError, UnfitError
from daitn.base.ids import ArtifactId
from daitn.descriptors.origin import Unfit
from daitn.learning.numerics.likeness import unsound_tensor
from daitn.node.moving import Moving
from daitn.node.store import ChunkStore, OutputFile
from daitn.node.store.files import mapped
from daitn.wire.center_tools import VisitOrder

SOUND_REMEMBERED: Final = 1024
"""Models that were looked at, or made, here: a unit measures some more than once, a site trains on its own."""


class Arrivals:
    """See the module's docstring."""

    def __init__(self, store: ChunkStore, moving: Moving) -> None:
        self._store = store
        self._moving = moving
        self._sound: OrderedDict[ArtifactId, None] = OrderedDict()

    async def model(self, order: VisitOrder, model: ArtifactId) -> tuple[Manifest, dict[str, bytes]]:
        """Manifest and parts of the model to run.

        PolicyError unless they are signed by whom the warrant names: the data owner's policy was asked about that
        signer, and the signature is over graph and contract and travels unchanged with the weights. UnfitError where
        another site has made the model and put another graph into it, or numbers that are not finite.
        """
        made_elsewhere = any(one.artifact == model and one.origin is not None for one in order.inputs)
        manifest, parts = self._moving.parts_of(model)
        try:
            verify_parts(manifest)
            if manifest.signer != order.warrant.signer:
                raise PolicyError(
                    f"model {model[:16]} is signed by {manifest.signer[:16]}…, the order says "
                    f"{order.warrant.signer[:16]}…",
                    todo="submit the package again, signed by whom the data owners' policies name",
                    ids={"visit": order.visit},
                )
        except DaitnError as error:
            if made_elsewhere:
                raise UnfitError(error.what, artifact=model, fault="signer") from None
            raise
        if made_elsewhere and model not in self._sound:
            if name := await asyncio.to_thread(self._unsound, model):
                what = f"model {model[:16]} has numbers that are not finite in tensor {name!r}"
                raise UnfitError(what, artifact=model, fault="not-finite")
            self.note_sound(model)
        return manifest, parts

    def note_sound(self, model: ArtifactId) -> None:
        """A model that was made here and looked at."""
        self._sound[model] = None
        while len(self._sound) > SOUND_REMEMBERED:
            self._sound.popitem(last=False)

    def _unsound(self, model: ArtifactId) -> str:
        with self._store.read_tensor_map(model) as tensors:
            return unsound_tensor(tensors.manifest.tensors, tensors.payload)


def check_output(output: OutputFile, entries: tuple[TensorEntry, ...], size: int) -> None:
    """InputError where a result has numbers that are not finite: what this site would not take, it does not hand on.

    The child has said that its weights are finite; it is not believed, and it does not look at optimizer slots.
    """
    if not size:
        return
    with mapped(output.fileno(), size) as view:
        name = unsound_tensor(entries, view)
    if name:
        raise InputError(
            f"the result has numbers that are not finite in tensor {name!r}",
            todo="take a smaller learning rate, or clip the gradient",
        )


def unfit_of(error: DaitnError) -> Unfit | None:
    """What an error says of a model that was given."""
    if not isinstance(error, UnfitError):
        return None
    return Unfit(artifact=error.artifact, fault=error.fault)  # type: ignore[arg-type]
