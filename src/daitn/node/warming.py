"""Getting ready for a visit that is likely: small parts, a unit's samples, a warm child.

Advice, taken only for what a visit may do: parts signed by whom the warrant names, data held here. What cannot be done
is logged and costs nobody a visit, since the visit itself does all of it where it has to.
"""

from __future__ import annotations

import logging

from daitn.artifacts.manifest import Manifest
from daitn.artifacts.signatures import verify_parts
from daitn.base.errors import DaitnError, PolicyError
from daitn.base.ids import DataSetId
from daitn.node.activations import SiteActivations
from daitn.node.child_pool import ChildPool
from daitn.node.datasets import DataShelf
from daitn.node.moving import Moving
from daitn.wire.center_tools import VisitPrepare

_log = logging.getLogger(__name__)


class Warming:
    """See the module's docstring."""

    def __init__(self, moving: Moving, shelf: DataShelf, children: ChildPool, activations: SiteActivations) -> None:
        self._moving = moving
        self._shelf = shelf
        self._children = children
        self._activations = activations

    async def warm(self, prepare: VisitPrepare) -> None:
        """Do what `prepare` advises, as far as it goes."""
        try:
            manifest, parts = await self._moving.fetch_parts(prepare.package)
            verify_parts(manifest)
            if manifest.signer != prepare.warrant.signer:
                named, signer = prepare.warrant.signer[:16], manifest.signer[:16]
                raise PolicyError(f"the package is signed by {signer}…, the warrant names {named}…")
            if prepare.verify:
                await self._for_measuring(prepare, manifest, parts)
            elif prepare.dataset is not None and self._holds(prepare.dataset):
                await self._for_training(prepare, prepare.dataset, manifest, parts)
        except DaitnError as error:
            _log.info("could not get ready for job %s: %s", prepare.job, error)

    async def _for_training(
        self, prepare: VisitPrepare, dataset: DataSetId, manifest: Manifest, parts: dict[str, bytes]
    ) -> None:
        name = dataset.partition("/")[2]
        beside = await self._activations.ensure(name, parts["contract"], prepare.job)
        table = self._shelf.path(name)
        await self._children.warm_training(prepare.job, manifest, parts, dataset, table, prepare.seed, beside)

    async def _for_measuring(self, prepare: VisitPrepare, manifest: Manifest, parts: dict[str, bytes]) -> None:
        """The test set is fetched as a visit would: pinned for its job, and never served again."""
        for wanted in prepare.inputs:
            await self._moving.fetch(wanted, prepare.job, servable=False, job=prepare.job)
        if prepare.samples:
            await self._children.warm_measuring(prepare.job, manifest, parts, prepare.samples)
            _log.info("ready to measure for job %s", prepare.job)

    def _holds(self, dataset: DataSetId) -> bool:
        return any(entry.name == dataset.partition("/")[2] for entry in self._shelf.list())
