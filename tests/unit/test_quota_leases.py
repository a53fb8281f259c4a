"""Quotas over several gateways: what they let in together is never more than the quota, whatever is lost between them
and the centre, and all of it is let in where nothing is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest
from tests.unit.test_gateway_desk import GATE, sent, with_gateway

from daitn.assembly.terminal import concerns_gateway
from daitn.base.effects import Delivered, Event, Send
from daitn.base.ids import CENTER, NodeId, OwnerId
from daitn.control_center.inference.commands import KeysListed
from daitn.control_center.inference.quota_desk import QuotaDesk
from daitn.decision.query_route.quota_leases import LEASE_S, QuotaBook, QuotaPurse
from daitn.decision.query_route.quotas import QuotaSpent
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.serving import ApiKey
from daitn.node.serving.quota_keeper import QuotaKeeper
from daitn.terminal.gateway import Gateway, OutcomesCounted, QuotasWanted, TakeQuotas
from daitn.wire.center_serving import QuotasAsked, QuotasGiven, QuotaUse

DIGEST = "a" * 64
NODES = (NodeId("n0001"), NodeId("n0002"), NodeId("n0003"))


def key(terms: KeyTerms) -> ApiKey:
    return ApiKey(digest=DIGEST, owner=OwnerId("app"), expires_unix_s=time.time() + 1000, terms=terms)


def test_no_loss_lets_gateways_spend_more_than_the_quota() -> None:
    for seed in range(300):
        _play(seed)


def _play(seed: int) -> None:
    """Questions and answers are lost or late, processes start anew, gateways fall silent. `left`: of one bucket that
    whatever any of them spends is taken from at once."""
    dice = random.Random(seed)
    quota, now_s = dice.choice([3, 40, 600]), 0.0
    terms = KeyTerms(queries_per_minute=quota)
    book = QuotaBook(terms, now_s)
    purses = {node: QuotaPurse(terms) for node in NODES}
    since = dict.fromkeys(NODES, 1)
    late: list[tuple[NodeId, int, int, object]] = []
    number, left = 0, float(quota)
    for _ in range(800):
        gap_s = dice.expovariate(1.0 / dice.choice([0.1, 1.0]))
        now_s, left = now_s + gap_s, min(float(quota), left + gap_s * quota / 60)
        node = NODES[int(now_s / 7) % 3] if dice.random() < 0.6 else dice.choice(NODES)
        purse = purses[node]
        match dice.randrange(10):
            case 0 | 1 | 2 | 3 | 4:
                for _ in range(dice.choice([1, 5, 50])):
                    left -= purse.take(now_s)
            case 5 | 6 | 7:
                number += 1
                use = purse.report(DIGEST, number, now_s, waiting=dice.choice([0, 0, 5]))
                if dice.random() < 0.7:
                    share = book.asked(node, since[node], use, now_s)
                    if dice.random() < 0.7:
                        purse.given(number, share, LEASE_S)
                    else:
                        late.append((node, since[node], number, share))
            case 8 if late:
                to, process, answers, share = late.pop(dice.randrange(len(late)))
                if since[to] == process:
                    purses[to].given(answers, share, LEASE_S)  # type: ignore[arg-type]
            case 9 if dice.random() < 0.2:
                purses[node], since[node] = QuotaPurse(terms), since[node] + 1
        assert left > -1e-6, f"seed {seed}: {-left:g} more than {quota} a minute after {now_s:.1f} s"


class Network:
    """Gateways and a centre; what they say to each other arrives in the next turn of the loop, if it does."""

    def __init__(self, terms: KeyTerms, gateways: int) -> None:
        self.now_s = 1000.0
        self.desk = QuotaDesk()
        self.nodes = NODES[:gateways]
        self.keepers = [QuotaKeeper(self._post(node), lambda: self.now_s) for node in self.nodes]
        self.deaf = False
        self.asked = 0
        self.desk.take_keys([key(terms)], self._ns)
        for keeper in self.keepers:
            keeper.take_keys([key(terms)])

    @property
    def _ns(self) -> int:
        return int(self.now_s * 1e9)

    def _post(self, node: NodeId) -> Callable[[Event], None]:
        def post(event: Event) -> None:
            assert isinstance(event, QuotasWanted)
            self.asked += 1
            if not self.deaf:
                given = self.desk.answer(node, event.asked, self.nodes, self._ns)
                keeper = self.keepers[self.nodes.index(node)]
                asyncio.get_running_loop().call_soon(keeper.given, given)

        return post

    async def ask(self, count: int) -> list[QuotaSpent]:
        """So many queries at once at each gateway; the refusals."""
        asked = [keeper.begin(DIGEST) for _ in range(count) for keeper in self.keepers]
        return [one for one in await asyncio.gather(*asked) if one is not None]


def test_gateways_together_let_in_the_quota_and_say_when_to_come_back() -> None:
    async def story() -> None:
        network = Network(KeyTerms(queries_per_minute=30), 3)
        refused = await network.ask(40)
        assert 3 * 40 - len(refused) == 30, "all of the quota, and no more"
        assert {one.what for one in refused} <= {"30 queries a minute", "what other gateways hold of its quota"}
        assert all(0 < one.wait_s <= 60 for one in refused)
        network.now_s += 20.0
        assert 3 * 40 - len(await network.ask(40)) == 10

    asyncio.run(story())


def test_whoever_asks_at_one_gateway_only_has_the_whole_quota_there() -> None:
    async def story() -> None:
        network = Network(KeyTerms(queries_per_minute=1000), 3)
        found = [await network.keepers[0].begin(DIGEST) for _ in range(1001)]
        assert found[:1000] == [None] * 1000
        assert found[1000] is not None
        assert network.asked < 60, "a question for each query was to be avoided"

    asyncio.run(story())


def test_tokens_are_owed_whichever_gateway_they_were_spent_at() -> None:
    async def story() -> None:
        network = Network(KeyTerms(tokens_per_minute=60), 2)
        assert await network.keepers[0].begin(DIGEST) is None
        network.keepers[0].spent(DIGEST, 90)
        network.keepers[0]._ask([DIGEST])
        refused = await network.keepers[1].begin(DIGEST)
        assert refused is not None
        assert refused.what == "60 tokens a minute"
        assert refused.wait_s == pytest.approx(31.0)

    asyncio.run(story())


def test_while_the_centre_is_silent_each_gateway_has_its_part_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daitn.node.serving.quota_keeper.SILENT_S", 0.01)

    async def story() -> None:
        network = Network(KeyTerms(queries_per_minute=60), 2)
        assert await network.ask(1) == []
        network.deaf = True
        network.now_s += LEASE_S  # what was leased has ended
        assert len(await network.ask(5)) == 10
        network.now_s += 4.0  # half a query a second for each
        assert 10 - len(await network.ask(5)) == 4
        network.deaf = False
        network.keepers[0]._ask([DIGEST])
        await asyncio.sleep(0)
        assert await network.keepers[0].begin(DIGEST) is None

    asyncio.run(story())


def test_centre_answers_gateways_only_and_the_core_carries_both_ways() -> None:
    domain = with_gateway()
    domain.do(KeysListed(keys=(key(KeyTerms(queries_per_minute=5)),)))
    asked = QuotasAsked(
        since=1, number=7, keys=(QuotaUse(digest=DIGEST, queries=0, tokens=0, queries_wanted=3, tokens_wanted=9),)
    )
    (given,) = sent(domain.do(Delivered(sender=GATE, message=asked)), QuotasGiven)
    assert (given.number, given.gateways, given.shares[0].queries_most) == (7, 1, 3)
    assert sent(domain.do(Delivered(sender=NodeId("n0001"), message=asked)), QuotasGiven) == []

    gateway = Gateway()
    (send,) = gateway.handle(QuotasWanted(asked=asked), 0)
    assert send == Send(receiver=CENTER, message=asked)
    assert gateway.handle(Delivered(sender=CENTER, message=given), 0) == [TakeQuotas(given=given)]
    assert gateway.handle(Delivered(sender=NodeId("n0001"), message=given), 0) == []
    for event in (
        QuotasWanted(asked=asked),
        Delivered(sender=CENTER, message=given),
        OutcomesCounted(since=1, outcomes=()),
    ):
        assert concerns_gateway(event)
