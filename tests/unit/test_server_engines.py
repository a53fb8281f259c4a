"""Other servers as engines: asked unchanged, and what they do wrong is told from what is wrong with a query."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from tests.answer_world import MODEL, AnswerWorld
from tests.server_world import DOUBLE, KEY, Server, add_double, gateway, server

from daitn.base.effects import Event
from daitn.base.errors import DaitnError, InputError, UnavailableError
from daitn.base.ids import ModelName
from daitn.base.metrics import Counters
from daitn.descriptors.offers import TensorServerOffer, TextServerOffer
from daitn.descriptors.pipelines import Ensemble, ModelStep, Pipeline, Sequence
from daitn.descriptors.serving import ReplicaPhase
from daitn.descriptors.texts import Generation, Given, TextBatch, Turn
from daitn.node.engines.tensor_server import open_tensor_server
from daitn.node.engines.text_server import open_text_server
from daitn.node.serving.answering import Answering
from daitn.node.serving.offering import Offering
from daitn.serving.engine import warm_up
from daitn.serving.text_engine import Ended
from daitn.terminal.model_host import OfferChanged

CHAT = Generation(turns=(Turn(role="user", text="hello"),))
WHOLE = "".join(f"w{number} " for number in range(6))


def run(check: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(20):
            await check()

    asyncio.run(all_of_it())


def text_offer(one: Server, **changes: object) -> TextServerOffer:
    return TextServerOffer(model=MODEL, address=one.address, silent_s=0.3, tasks=("generate", "embed"), **changes)  # type: ignore[arg-type]


async def told(engine, given: Given = Given()) -> str:  # type: ignore[no-untyped-def]  # noqa: B008
    parts = [piece.text async for piece in engine.generate(CHAT, given) if not isinstance(piece, Ended)]
    return "".join(parts)


def test_server_is_asked_as_its_clients_ask_it() -> None:
    async def check() -> None:
        async with server() as one:
            engine = await open_text_server(text_offer(one, their_model="theirs"))
            assert await told(engine) == WHOLE
            assert await told(engine, Given(text=WHOLE[:7])) == WHOLE[7:]
            (asked, _) = one.asked
            assert (asked["model"], asked["stream"], asked["messages"][0]["content"]) == ("theirs", True, "hello")
            made = await engine.batch(TextBatch(task="embed", texts=("a", "b")))
            assert made.values.tolist() == [[0, 1], [1, 1]]
            with pytest.raises(InputError, match="no labels"):
                await engine.batch(TextBatch(task="classify", texts=("a",)))
            await engine.close()

    run(check)


@pytest.mark.parametrize(
    ("mood", "kind", "why"),
    [
        ("500", UnavailableError, "status 500"),
        ("400", InputError, "status 400: too many words"),
        ("redirect", UnavailableError, "status 302"),
        ("hang", UnavailableError, "said nothing for"),
        ("cut", UnavailableError, "in the middle"),
        ("garbage", UnavailableError, "no piece of an answer"),
        ("long line", UnavailableError, "line of more than"),
        ("error", UnavailableError, "failed in the middle"),
    ],
)
def test_what_a_server_does_wrong_is_said_and_the_engine_goes_on(mood: str, kind: type[DaitnError], why: str) -> None:
    async def check() -> None:
        async with server() as one:
            engine = await open_text_server(text_offer(one))
            one.mood = mood
            with pytest.raises(kind, match=why):
                await told(engine)
            one.mood = ""
            assert await told(engine) == WHOLE
            await engine.close()

    run(check)


def test_answer_that_the_server_would_go_on_with_otherwise_is_not_taken_up() -> None:
    async def check() -> None:
        async with server() as one:
            engine = await open_text_server(text_offer(one))
            one.mood = "other words"
            with pytest.raises(UnavailableError, match="something else"):
                await told(engine, Given(text=WHOLE[:7]))
            for mood in ("too few", "uneven"):
                one.mood = mood
                with pytest.raises(UnavailableError, match="2 vectors"):
                    await engine.batch(TextBatch(task="embed", texts=("a", "b")))
            await engine.close()

    run(check)


def test_whoever_takes_no_more_hangs_up_on_the_server() -> None:
    async def check() -> None:
        async with server() as one:
            engine = await open_text_server(text_offer(one))
            one.mood = "hang"
            async with aclosing(engine.generate(CHAT, Given())) as pieces:
                async for _ in pieces:
                    break
            await one.closed.wait()
            await engine.close()

    run(check)


@pytest.mark.parametrize("ours", [False, True], ids=("small server", "our gateway"))
def test_tensors_are_asked_of_a_server_and_joined_as_for_any_engine(ours: bool, tmp_path: Path) -> None:
    async def check() -> None:
        (tmp_path / "key").write_text(str(KEY))
        async with AnswerWorld() as world, gateway(world) as door, server() as one:
            add_double(world)
            address, key = (door.address, str(tmp_path / "key")) if ours else (one.address, "")
            engine = await open_tensor_server(TensorServerOffer(model=DOUBLE, address=address, key_file=key))
            warmed = await warm_up(engine)
            assert [(spec.name, spec.shape) for spec in warmed.outputs] == [("y", (-1, 2))]
            rows = np.arange(6, dtype=np.float32).reshape(3, 2)
            np.testing.assert_array_equal((await engine.infer({"x": rows}))["y"], rows * 2)
            await engine.close()
            with pytest.raises(UnavailableError):
                await engine.infer({"x": rows})

    run(check)


@pytest.mark.parametrize("mood", ["", "says nothing", "says garbage"])
def test_server_that_does_not_say_that_it_takes_raw_tensors_gets_them_as_json(mood: str) -> None:
    async def check() -> None:
        async with server() as one:
            one.plain, one.mood = True, mood
            engine = await open_tensor_server(TensorServerOffer(model=DOUBLE, address=one.address))
            rows = np.array([[0.1, -2.5], [3e-30, 4e30]], np.float32)
            np.testing.assert_array_equal((await engine.infer({"x": rows}))["y"], rows * 2)
            with pytest.raises(InputError, match="'x' has entries that are not finite"):
                await engine.infer({"x": np.array([[np.nan, 1]], np.float32)})
            assert engine.alive
            await engine.close()

    run(check)


def test_combined_model_is_asked_at_the_door_as_any_model() -> None:
    step = Sequence(
        steps=(ModelStep(model=DOUBLE, outputs={"y": "twice"}), ModelStep(model=DOUBLE, inputs={"x": "twice"}))
    )
    fused = Ensemble(
        steps=(ModelStep(model=DOUBLE), ModelStep(model=DOUBLE, inputs={"x": "z"})), output="y", partial=True
    )
    pipelines = (Pipeline(name=ModelName("four"), step=step), Pipeline(name=ModelName("fused"), step=fused))

    async def check() -> None:
        async with AnswerWorld() as world, gateway(world, pipelines) as door:
            add_double(world)
            headers = {"Authorization": f"Bearer {KEY}"}
            async with aiohttp.ClientSession(door.address, headers=headers) as session:

                async def ask(method: str, path: str, body: object = None) -> tuple[int, Any, Any]:
                    async with session.request(method, path, json=body) as answer:
                        return answer.status, answer.headers, await answer.json()

                index = (await ask("POST", "/v2/repository/index", {}))[2]
                assert [one["name"] for one in index if one["state"] == "READY"] == [DOUBLE, "four", "fused"]
                assert [one["name"] for one in (await ask("GET", "/v2/models/fused"))[2]["inputs"]] == ["x", "z"]
                tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
                status, told, body = await ask("POST", "/v2/models/four/infer", {"inputs": [tensor]})
                assert (status, body["outputs"][0]["data"]) == (200, [4, 8])
                for query in told["x-daitn-query"].split(", "):
                    assert (await ask("GET", f"/v2/queries/{query}"))[0] == 200
                status, told, body = await ask("POST", "/v2/models/fused/infer", {"inputs": [tensor]})
                assert (status, body["outputs"][0]["data"]) == (200, [2, 4])
                assert "the query has no z" in told["x-daitn-notice"]
                tensor["name"] = "w"
                status, _, body = await ask("POST", "/v2/models/four/infer", {"inputs": [tensor]})
                assert (status, "needs x" in body["error"]) == (400, True)

    run(check)


@pytest.mark.parametrize(
    ("mood", "kind"),
    [
        ("500", UnavailableError),
        ("400", InputError),
        ("garbage", UnavailableError),
        ("wrong shape", UnavailableError),
        ("hang", UnavailableError),
        ("huge", UnavailableError),
    ],
)
def test_what_a_server_of_tensors_does_wrong_is_told_apart(mood: str, kind: type[DaitnError]) -> None:
    async def check() -> None:
        async with server() as one:
            engine = await open_tensor_server(TensorServerOffer(model=DOUBLE, address=one.address, silent_s=0.3))
            one.mood = mood
            with pytest.raises(kind):
                await engine.infer(engine.example(2))
            one.mood = ""
            assert (await engine.infer(engine.example(2)))["y"].shape == (2, 2)
            await engine.close()

    run(check)


@pytest.mark.parametrize("mood", ["fixed", "bytes"])
def test_model_that_queries_cannot_ask_is_refused_when_it_is_opened(mood: str) -> None:
    async def check() -> None:
        async with server() as one:
            one.mood = mood
            with pytest.raises(InputError):
                await open_tensor_server(TensorServerOffer(model=DOUBLE, address=one.address))

    run(check)


def test_key_that_cannot_be_read_and_server_that_is_not_there_are_told(tmp_path: Path) -> None:
    async def check() -> None:
        async with server() as one:
            with pytest.raises(InputError, match="cannot be read"):
                await open_text_server(text_offer(one, key_file=str(tmp_path / "none")))
            (tmp_path / "key").write_text("a\nb")
            with pytest.raises(InputError, match="holds no key"):
                await open_text_server(text_offer(one, key_file=str(tmp_path / "key")))
            gone = text_offer(one)
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await open_text_server(gone)

    run(check)


@pytest.mark.parametrize("kind", ["texts", "tensors"])
def test_host_looks_for_a_server_until_it_is_there_and_again_when_it_is_lost(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daitn.node.serving.offering.AGAIN_FIRST_S", 0.01)
    said: list[ReplicaPhase] = []

    def post(event: Event) -> None:
        assert isinstance(event, OfferChanged)
        said.append(event.replica.phase)

    async def until(phase: ReplicaPhase) -> None:
        while not said or said[-1] is not phase:
            await asyncio.sleep(0.01)

    async def check() -> None:
        async with server() as one:
            port = int(one.address.rpartition(":")[2])
        offer = text_offer(one) if kind == "texts" else TensorServerOffer(model=DOUBLE, address=one.address)
        async with AnswerWorld() as world:
            answering = Answering(world.fabric, Counters(), world.tensors)  # type: ignore[arg-type]
            offering = Offering((offer,), answering, Counters(), post)
            await offering.start()
            await until(ReplicaPhase.FAILED)
            async with server(port):
                await until(ReplicaPhase.SERVING)
            if kind == "texts":
                replica = answering.replicas[MODEL]
                while replica.engine.alive:  # the first may find a connection that stood, and broke
                    with pytest.raises(UnavailableError):
                        await told(replica.engine)
                await replica.revive()
                await until(ReplicaPhase.FAILED)
            await offering.stop()
            assert not answering.replicas
            assert not offering.tensors

    run(check)


def test_offers_with_addresses_that_are_none_are_refused() -> None:
    from daitn.descriptors.offers import check_offers

    for address in ("ftp://a", "http://", "http://u:p@h", "http://h?x=1", "http://h:99999", "nothing"):
        with pytest.raises(InputError, match="no address of a server"):
            check_offers((TextServerOffer(model=MODEL, address=address),))
