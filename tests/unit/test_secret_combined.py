"""Combined models asked in secret: clients join answers, each part is read by its host alone, the rest is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from tests.unit.test_asking import carried
from tests.unit.test_pipelines import ROWS, Domain, leaf, shares
from tests.unit.test_secret_queries import host_keys

from daitn.base.errors import InputError, PeerError
from daitn.base.ids import DomainId, ModelName, NodeId, OwnerId
from daitn.descriptors.grant import Holder
from daitn.descriptors.pipelines import ModelStep, Sequence, Step, TextSwitch
from daitn.descriptors.serving import ApiKey, QueryGoal
from daitn.descriptors.texts import Generation
from daitn.node import pki
from daitn.node.http.owner_token import OwnerToken
from daitn.node.http.tokens import digest_of_secret
from daitn.node.serving.answer_links import AnswerLinks
from daitn.node.serving.asking import Asking
from daitn.node.serving.door import Door
from daitn.node.serving.host_keys import HostKeys
from daitn.node.serving.secret_door import SecretDoor
from daitn.sdk.secret_calls import request_of
from daitn.sdk.secret_combined import ask_parts
from daitn.sdk.secret_queries import ask_later_secretly, ask_secretly
from daitn.sdk.secret_texts import tell_secretly
from daitn.serving.tensors import Arrays, arrays_of
from daitn.wire.queries import KeyTold, QueryAnswer, QueryCall
from daitn.wire.secret_queries import CombinedTold, SecretOutcome

SWITCH = TextSwitch(name=ModelName("assistant"), cheap=ModelName("small"), dear=ModelName("large"), outcomes="x")


class SecretDomain(Domain):
    """A gateway on loopback whose hosts are functions that answer what is sealed for them, and nothing else."""

    def __init__(self, folder: Path, *pipelines: dict[str, Any]) -> None:
        super().__init__(*pipelines)
        self._folder, self._authority = folder, pki.create_authority(folder / "ours", DomainId("ours"))
        self.keys: dict[NodeId, HostKeys] = {}
        self.read: dict[NodeId, list[Arrays]] = {}
        self.carried = bytearray()
        self.held = asyncio.Event()
        fingerprint = bytes.fromhex(self._authority.fingerprint)
        token = OwnerToken(address="127.0.0.1:1", domain=DomainId("ours"), fingerprint=fingerprint, secret=bytes(32))
        self.token, self._digest = str(token), digest_of_secret(token.secret)

    async def __aenter__(self) -> SecretDomain:
        self.engine.follow([self._served(name) for name in self.models], time.monotonic_ns())
        for name in self.models:
            for node in (f"{name}1", f"{name}2"):
                self.keys[NodeId(node)] = host_keys(self._folder / node, self._authority, node)
        asking, links = Asking(self.engine, carried(self._call), self.counters), cast(AnswerLinks, self)
        authority, switches = self._authority.certificate_pem.decode(), {SWITCH.name: SWITCH}
        secret = SecretDoor(self.engine, asking, links, authority, self.counters, switches=switches)
        self.door = Door(self.engine, asking, self.counters, pipelines=self.pipelines, secret=secret)
        self.door.take_keys([ApiKey(digest=self._digest, owner=OwnerId("app"), expires_unix_s=time.time() + 60)])
        await self.door.start("127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.held.set()
        await self.door.stop()

    async def key(self, host: Holder, _: float) -> KeyTold:
        """As a link to the host does."""
        return KeyTold(statement=self.keys[host.node].statement())

    async def secretly(self, model: str, **more: Any) -> dict[str, Any]:
        inputs = more.pop("inputs", {"x": ROWS})
        return await asyncio.to_thread(ask_secretly, self.door.address, self.token, model, inputs, **more)

    async def _call(self, host: NodeId, call: QueryCall, timeout_s: float) -> QueryAnswer:
        assert call.inputs == ()
        assert call.sealed is not None
        self.carried += call.sealed.data
        if call.model in self.slow:
            await self.held.wait()
        opened = self.keys[host].secret.open(call.sealed, call.model, call.artifact)
        answer = await super()._call(host, msgspec.structs.replace(call, inputs=opened.inputs, sealed=None), timeout_s)
        self.read.setdefault(host, []).append(arrays_of(opened.inputs))
        sealed = opened.seal(SecretOutcome(outputs=answer.outputs))
        self.carried += sealed
        return QueryAnswer(outputs=(), sealed=sealed, engine_s=0.001)


def run(domain: SecretDomain, story: Callable[[SecretDomain], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(30), domain:
            await story(domain)

    asyncio.run(all_of_it())


def marked(rows: Any) -> list[bytes]:
    return [np.asarray(row, np.float32).tobytes() for row in rows]


CHAIN = {"kind": "sequence", "steps": [leaf("head", outputs={"h": "hidden"}), leaf("tail", inputs={"x": "hidden"})]}
BOTH = {
    "kind": "ensemble",
    "output": "p",
    "weights": "measured",
    "partial": True,
    "steps": [leaf("eyes"), leaf("notes", inputs={"t": "report"}), leaf("small")],
}
FIRST = {"kind": "cascade", "output": "p", "sure": 0.8, "steps": [leaf("small"), leaf("large")]}
DRAWN = {"kind": "splitter", "shares": [0.0, 1.0], "steps": [leaf("eyes"), leaf("large")]}


def filled(folder: Path) -> SecretDomain:
    lacks = leaf("tail", inputs={"x": "hidden"})
    trees = {"chain": CHAIN, "both": BOTH, "first": FIRST, "drawn": DRAWN, "lacks": lacks}
    domain = SecretDomain(folder, *({"name": name, "step": step} for name, step in trees.items()))
    domain.add("head", lambda inputs: {"h": inputs["x"] + 1.25}).add("tail", lambda inputs: {"p": inputs["x"] * 3})
    domain.add("eyes", shares(0.9, 0.1), accuracy=0.9).add("notes", shares(0.5, 0.5), "t")
    domain.add("large", shares(0.2, 0.8))
    domain.add("small", lambda inputs: {"p": np.where(inputs["x"] > 1, 0.5, [[0.9, 0.1]]).astype(np.float32)})
    return domain


def test_each_combination_says_in_secret_what_it_says_in_the_open_and_its_gateway_reads_none_of_it(
    tmp_path: Path,
) -> None:
    domain, opened = filled(tmp_path / "secret"), filled(tmp_path / "open")
    opened._call = partial(Domain._call, opened)  # type: ignore[method-assign]
    rows = np.array([[0.123456, 0.654321], [2.345678, 3.456789], [0.5, 0.25]], np.float32)

    async def story(domain: SecretDomain) -> None:
        for name in ("chain", "both", "first", "drawn"):
            wanted = await opened._ask(name, {"x": rows}, QueryGoal())
            assert isinstance(wanted.outcome, dict)
            notices: list[str] = []
            found = await domain.secretly(name, inputs={"x": rows}, notice=notices.append)
            assert {key: value.tolist() for key, value in found.items()} == {
                key: value.tolist() for key, value in wanted.outcome.items()
            }
            assert tuple(notices) == wanted.notices

    run(domain, story)
    assert not any(row in domain.carried for row in marked([*rows, *(rows + 1.25)]))
    read = {host[:-1]: arrays for host, arrays in domain.read.items()}
    assert set(read) == {"head", "tail", "eyes", "small", "large"}, "each part is asked, and nothing that was left out"
    assert read["tail"][0]["x"].tolist() == (rows + 1.25).tolist()
    assert min(len(one["x"]) for one in read["large"]) == 1, "the dearer model reads the rows that are not sure alone"


def test_host_that_is_lost_is_passed_and_a_branch_that_is_lost_or_slow_is_left_out_with_a_notice(
    tmp_path: Path,
) -> None:
    step = {"kind": "ensemble", "output": "p", "quorum": 1, "steps": [leaf("eyes"), leaf("slow"), leaf("gone")]}
    domain = SecretDomain(tmp_path, {"name": "some", "step": step})
    for name in ("eyes", "slow", "gone"):
        domain.add(name, shares(0.9, 0.1))
    domain.slow, domain.first_dies = {"slow"}, {"eyes"}
    domain.dead = {"gone1", "gone2"}

    async def story(domain: SecretDomain) -> None:
        notices: list[str] = []
        began_s = time.monotonic()
        found = await domain.secretly("some", notice=notices.append)
        assert found["p"].tolist() == shares(0.9, 0.1)({"x": ROWS})["p"].tolist()
        assert "answered without slow: a quorum was there" in notices
        assert time.monotonic() - began_s < 10, "who is slow is not waited for"

    run(domain, story)


def test_what_cannot_be_held_in_secret_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def story(domain: SecretDomain) -> None:
        address, token = domain.door.address, domain.token
        with pytest.raises(InputError, match="combined of head, tail, whose answers only a client can join that waits"):
            await asyncio.to_thread(ask_later_secretly, address, token, "chain", {"x": ROWS})
        words = tell_secretly(address, token, "assistant", Generation(prompt="Xylander"))
        with pytest.raises(InputError, match="assistant is small or large by what a text says"):
            await asyncio.to_thread(list, words)
        with pytest.raises(InputError, match="tail needs hidden, which nobody gives"):
            await domain.secretly("lacks")
        with pytest.raises(InputError, match="none of the hosts that may read the query serves head now"):
            await domain.secretly("chain", hosts=("tail1",))
        headers = {"Authorization": f"Bearer {token}", "x-daitn-part": "eyes"}
        with pytest.raises(InputError, match="'eyes' is no part of 'chain', which is combined of head, tail"):
            await asyncio.to_thread(request_of, f"{address}/v2/models/chain/keys", headers, None)
        assert domain.counters.of("door_refused", "combined") == 2
        assert domain.read == {}

    domain = filled(tmp_path)
    run(domain, story)


def test_tree_of_a_gateway_that_does_not_hold_together_is_its_fault() -> None:
    step: Step = ModelStep(model=ModelName("a"))
    for _ in range(20):
        step = Sequence(steps=(step,))
    with pytest.raises(PeerError, match=r"a combined model that is none: .*deeper than 8"):
        ask_parts("http://127.0.0.1:9", "key", "deep", CombinedTold(step=step, parts=()), {"x": ROWS}, (), None, None)
