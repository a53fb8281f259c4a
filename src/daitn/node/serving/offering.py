"""Models that a host brings by itself: opens what its configuration names, and again where it is not there yet.

What cannot be opened is tried again, each time after twice the wait, up to a minute: another server may be started
after its host. The centre is told how each does, as of replicas that it ordered.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from blake3 import blake3

from daitn.base.effects import Event
from daitn.base.errors import DaitnError, InputError
from daitn.base.ids import ArtifactId, ModelName
from daitn.base.metrics import Counters
from daitn.descriptors.offers import FolderOffer, Offer, SimulatedOffer, TensorServerOffer, TextServerOffer
from daitn.descriptors.serving import Replica, ReplicaPhase
from daitn.descriptors.texts import TextTask
from daitn.learning.base_files import folder_digest
from daitn.node.engines.simulated import SimulatedEngine
from daitn.node.engines.tensor_server import open_tensor_server
from daitn.node.engines.text_server import open_text_server
from daitn.node.engines.transformers_folder import open_folder
from daitn.node.sandbox.launcher import Sandbox
from daitn.node.serving.answering import Answering
from daitn.node.serving.replica import ServedReplica, open_replica
from daitn.node.serving.text_replica import open_text_replica
from daitn.serving.text_engine import TextEngine
from daitn.terminal.model_host import OfferChanged

AGAIN_FIRST_S: Final = 1.0
AGAIN_MOST_S: Final = 60.0

_log = logging.getLogger(__name__)


class Offering:
    """See the module's docstring."""

    def __init__(
        self,
        offers: Sequence[Offer],
        answering: Answering,
        counters: Counters,
        post: Callable[[Event], None],
        sandbox: Sandbox | None = None,
    ) -> None:
        self._offers, self._answering, self._counters, self._post = offers, answering, counters, post
        self._sandbox = Sandbox() if sandbox is None else sandbox
        self._likenesses: dict[ModelName, ArtifactId] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.tensors: dict[ModelName, tuple[ArtifactId, ServedReplica]] = {}
        """Models of tensors, which are asked as deployed ones are."""

    async def start(self) -> None:
        """Open all of them, beside whatever else goes on."""
        self._tasks = [asyncio.create_task(self._keep(offer)) for offer in self._offers]

    async def stop(self) -> None:
        """End every engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep(self, offer: Offer) -> None:
        wait_s = AGAIN_FIRST_S
        try:
            self._likenesses[offer.model] = await _likeness(offer)
        except InputError as error:
            self._likenesses[offer.model] = ArtifactId("")
            self._failed(offer, error.render())
            return
        while True:
            over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._say(offer, ReplicaPhase.WARMING)
            opened: _Opened | None = None
            try:
                opened = await self._open(offer, functools.partial(_tell, over))
                self._post(OfferChanged(replica=opened.said))
                _log.info("offered model %s answers: first in %.1f ms", offer.model, opened.said.measured.row_s * 1000)
                why = await over
                wait_s = AGAIN_FIRST_S
            except InputError as error:
                self._failed(offer, error.render())
                return
            except DaitnError as error:
                why = error.what
            finally:
                if opened is not None:
                    await opened.close()
            self._failed(offer, why)
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_MOST_S, 2 * wait_s)

    async def _open(self, offer: Offer, failed: Callable[[str], None]) -> _Opened:
        said = Replica(model=offer.model, artifact=self._likenesses[offer.model], phase=ReplicaPhase.SERVING)
        if isinstance(offer, TensorServerOffer):
            tensors = await open_replica(lambda: open_tensor_server(offer), offer.concurrency, failed)
            self.tensors[offer.model] = (said.artifact, tensors)
            said = msgspec.structs.replace(
                said,
                inputs=tensors.inputs,
                outputs=tensors.outputs,
                concurrency=offer.concurrency,
                measured=tensors.measured,
            )
            return _Opened(said, lambda: self._close_tensors(offer.model))
        texts = await open_text_replica(said.artifact, lambda: self._make(offer), failed)
        self._answering.replicas[offer.model] = texts
        engine = texts.engine
        said = msgspec.structs.replace(
            said, tasks=engine.tasks, concurrency=engine.concurrency, measured=texts.measured
        )
        return _Opened(said, lambda: self._close_texts(offer.model))

    async def _make(self, offer: SimulatedOffer | TextServerOffer | FolderOffer) -> TextEngine:
        match offer:
            case SimulatedOffer():
                return SimulatedEngine(offer)
            case TextServerOffer():
                return await open_text_server(offer)
            case FolderOffer():
                return await open_folder(offer, self._sandbox)

    async def _close_tensors(self, model: ModelName) -> None:
        await self.tensors.pop(model)[1].close()

    async def _close_texts(self, model: ModelName) -> None:
        await self._answering.replicas.pop(model).close()

    def _say(self, offer: Offer, phase: ReplicaPhase, why: str = "") -> None:
        said = Replica(
            model=offer.model,
            artifact=self._likenesses[offer.model],
            phase=phase,
            why=why[:1024],
            tasks=tuple(map(TextTask, offer.tasks)),
        )
        self._post(OfferChanged(replica=said))

    def _failed(self, offer: Offer, why: str) -> None:
        self._counters.count("replicas_failed")
        _log.warning("offered model %s does not answer: %s", offer.model, why)
        self._say(offer, ReplicaPhase.FAILED, why)


class _Opened(NamedTuple):
    """An offer whose model answers: what is said of it, and its end."""

    said: Replica
    close: Callable[[], Awaitable[None]]


def _tell(over: asyncio.Future[str], why: str) -> None:
    if not over.done():
        over.set_result(why)


async def _likeness(offer: Offer) -> ArtifactId:
    """What another host must share to be a replica; InputError where a folder is none."""
    if isinstance(offer, FolderOffer):
        digest = await asyncio.to_thread(folder_digest, Path(offer.folder))
        return ArtifactId(blake3(f"transformers {offer.task} {digest}".encode()).hexdigest())
    return offer.likeness
