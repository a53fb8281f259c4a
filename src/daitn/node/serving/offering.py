"""Models that a host brings by itself: opens what its configuration names, and again where it is not there yet.

What cannot be opened is tried again, each time after twice the wait, up to a minute: another server may be started
after its host. The centre is told how each does, as of replicas that it ordered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from daitn.base.effects import Event
from daitn.base.errors import DaitnError, InputError
from daitn.base.metrics import Counters
from daitn.descriptors.offers import Offer
from daitn.descriptors.serving import Replica, ReplicaPhase
from daitn.node.engines.simulated import SimulatedEngine
from daitn.node.serving.answering import Answering
from daitn.node.serving.text_replica import TextReplica, open_text_replica
from daitn.serving.text_engine import TextEngine
from daitn.terminal.model_host import OfferChanged

AGAIN_FIRST_S: Final = 1.0
AGAIN_MOST_S: Final = 60.0

_log = logging.getLogger(__name__)


class Offering:
    """See the module's docstring."""

    def __init__(
        self, offers: Sequence[Offer], answering: Answering, counters: Counters, post: Callable[[Event], None]
    ) -> None:
        self._offers, self._answering, self._counters, self._post = offers, answering, counters, post
        self._tasks: list[asyncio.Task[None]] = []

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
        while True:
            over = asyncio.Event()
            why: list[str] = []

            def failed(what: str, over: asyncio.Event = over, why: list[str] = why) -> None:
                why.append(what)
                over.set()

            self._say(offer, ReplicaPhase.WARMING)
            replica: TextReplica | None = None
            try:
                replica = await open_text_replica(offer.likeness, lambda: _make(offer), failed)
                self._answering.replicas[offer.model] = replica
                self._say(offer, ReplicaPhase.SERVING, replica=replica)
                _log.info("offered model %s answers: first in %.1f ms", offer.model, replica.measured.row_s * 1000)
                await over.wait()
                wait_s = AGAIN_FIRST_S
            except InputError as error:
                self._failed(offer, error.render())
                return
            except DaitnError as error:
                why.append(error.what)
            finally:
                self._answering.replicas.pop(offer.model, None)
                if replica is not None:
                    await replica.close()
            self._failed(offer, why[0])
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_MOST_S, 2 * wait_s)

    def _failed(self, offer: Offer, why: str) -> None:
        self._counters.count("replicas_failed")
        _log.warning("offered model %s does not answer: %s", offer.model, why)
        self._say(offer, ReplicaPhase.FAILED, why=why)

    def _say(self, offer: Offer, phase: ReplicaPhase, *, why: str = "", replica: TextReplica | None = None) -> None:
        said = Replica(model=offer.model, artifact=offer.likeness, phase=phase, why=why[:1024], tasks=offer.tasks)
        if replica is not None:
            said = Replica(
                model=offer.model,
                artifact=offer.likeness,
                phase=phase,
                tasks=replica.engine.tasks,
                concurrency=replica.engine.concurrency,
                measured=replica.measured,
            )
        self._post(OfferChanged(replica=said))


async def _make(offer: Offer) -> TextEngine:
    return SimulatedEngine(offer)
