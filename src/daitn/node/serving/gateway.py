"""A gateway's hands: the door, the route engine behind it, queries to hosts over the fabric, and what is kept of those
that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import secrets
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from daitn.base.effects import Effect, Event
from daitn.base.errors import InputError
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_engine import QueryRouteEngine, warm_up
from daitn.descriptors.destinations import parse_networks
from daitn.node.fabric.contract import Fabric
from daitn.node.node_config import GatewayConfig
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.asking import Asking
from daitn.node.serving.counting import QueryCounts
from daitn.node.serving.door import Door
from daitn.node.serving.handing import Handing
from daitn.node.serving.host_keys import authority_of
from daitn.node.serving.key_book import KeyBook
from daitn.node.serving.later import Answerer, LaterQueries
from daitn.node.serving.later_store import LaterStore
from daitn.node.serving.openai_door import OpenAiDoor
from daitn.node.serving.quota_keeper import QuotaKeeper
from daitn.node.serving.secret_door import SecretDoor
from daitn.node.serving.switching import Switching
from daitn.node.serving.text_asking import TextAsking
from daitn.node.serving.ways import WayBook
from daitn.node.serving.webhooks import Webhooks
from daitn.terminal.gateway import TakeKeys, TakeQuotas, TakeRoutes

COLLECTED_OBJECTS: Final = 30_000
"""New objects after which cycles are looked for: a pause of 2 ms at most."""


class GatewayHands:
    """See the module's docstring. InputError where the door would be open to others without TLS."""

    def __init__(
        self, config: GatewayConfig, fabric: Fabric, tls: Path, kept: Path, post: Callable[[Event], None]
    ) -> None:
        self.counters = Counters()
        self.address = ""
        self._config = config
        self._context = _context(config)
        self._engine = QueryRouteEngine(secrets.randbits(32))

        self._counts = QueryCounts(post)
        self._telling: list[asyncio.Task[None]] = []

        self._quotas = QuotaKeeper(post)
        self._keys = KeyBook(self.counters, quotas=self._quotas)
        self._links = AnswerLinks(fabric)
        self._handing = Handing(fabric, self.counters)
        self._switching = Switching(config.switches)
        telling = TextAsking(
            self._engine, self._links, self.counters, standing=self._keys.standing, counts=self._counts
        )
        texts = OpenAiDoor(self._engine, telling, WayBook(), self._switching, self._keys)
        asking = Asking(self._engine, self._links.query, self.counters, self._counts, standing=self._keys.standing)
        secret = SecretDoor(
            self._engine, asking, self._links, authority_of(tls), self.counters, telling, self._switching.switches
        )

        def later(answer: Answerer) -> LaterQueries:
            webhooks = Webhooks(kept / "signing.key", parse_networks(config.answers_to))
            store = LaterStore(kept / "later.sqlite")
            return LaterQueries(store, webhooks, answer, self.counters, handing=self._handing)

        self.door = Door(self._engine, asking, self.counters, texts, config.pipelines, secret, later)

    async def start(self) -> None:
        """Open the door; UnavailableError where its port cannot be had. Choices are compiled before anybody waits."""
        await asyncio.to_thread(warm_up)
        await self._switching.learn()
        _settle_memory()
        await self.door.start(self._config.host, self._config.port, self._context)
        self.address = self.door.address
        telling = (self._counts.tell_often(), self._quotas.tell_often())
        self._telling = [asyncio.create_task(one) for one in telling]

    def perform(self, effect: Effect) -> bool:
        """Do what the gateway core wants, if it is that."""
        match effect:
            case TakeRoutes(models=models, gateways=gateways):
                self._handing.follow(gateways)
                self._engine.follow(models, time.monotonic_ns())
                self.door.follow(models)
            case TakeKeys(keys=keys):
                self.door.take_keys(keys)
            case TakeQuotas(given=given):
                self._quotas.given(given)
            case _:
                return False
        return True

    async def stop(self) -> None:
        """Close the door, then the streams to hosts."""
        for telling in self._telling:
            telling.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self.door.stop()
        await self._links.close()


def _settle_memory() -> None:
    """Have the collector of cycles look at new objects seldom, and at what was loaded never again: a query makes a
    hundred objects, of which none is in a cycle, and looking for them took a tenth of the gateway's time. Where cycles
    are made, 30,000 objects of them are kept a while longer: some megabytes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECTED_OBJECTS, 20, 20)


def _context(config: GatewayConfig) -> ssl.SSLContext | None:
    if config.certificate and config.key:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(config.certificate, config.key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"certificate {config.certificate} and key {config.key} cannot be used: {error}") from None
        return context
    try:
        inside = ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        inside = config.host == "localhost"
    if not inside:
        raise InputError(
            f"the gateway would listen at {config.host} without TLS",
            todo="give it a certificate and a key (in node.json), or let it listen at 127.0.0.1 behind a proxy",
        )
    return None
