"""Secret texts: only the host reads what is asked, only the client what is said, piece by piece and in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.answer_world import LIKENESS, MODEL, AnswerWorld, Spelling, simulated, whole

from daitn.base.errors import PeerError
from daitn.base.ids import NodeId
from daitn.control_center.inference.query_admission import QueryRefusal
from daitn.descriptors.serving import QueryGoal
from daitn.descriptors.texts import Generation, Given, TextAsk, TextBatch, TextTask
from daitn.node.serving.telling import Telling
from daitn.serving.sealing import FILL_BYTES, HostSecret, Secret, seal_text
from daitn.wire.answers import SealedPiece, TextPiece, decode_to_host, encode_frame, join_frames
from daitn.wire.secret_queries import SealedPart, SecretPiece, SecretText, SecretTextQuery

ASKED = Generation(prompt="what ails Xylander")
ANY = QueryGoal()


def run(check: Callable[[AnswerWorld], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(20), AnswerWorld() as world:
            await check(world)

    asyncio.run(all_of_it())


class Hosts:
    """Hosts of a world that open secret queries."""

    def __init__(self, world: AnswerWorld, **engines: Any) -> None:
        self.world = world
        self.keys: dict[NodeId, HostSecret] = {}
        for name, engine in engines.items():
            node = NodeId(name)
            self.keys[node] = world.add(name, engine).secret = HostSecret(node)

    def seal(self, *names: str, asked: TextAsk = ASKED, given: Given = Given()) -> tuple[SecretTextQuery, Secret]:  # noqa: B008  # a value
        readers = {node: one.public for node, one in self.keys.items() if not names or node in names}
        return seal_text(SecretText(asked=asked, given=given), readers, MODEL, LIKENESS)


async def opened(telling: Telling, secret: Secret) -> list[SecretPiece]:
    pieces: list[SecretPiece] = []
    while (data := await telling.next_sealed()) is not None:
        pieces.append(secret.open_piece(data, len(pieces)))
    return pieces


def test_secret_text_is_told_sealed_and_nobody_between_reads_any_of_it() -> None:
    async def check(world: AnswerWorld) -> None:
        engine = Spelling()
        engine.words = [f"Xylander has scurvy {number} " for number in range(20)]
        hosts = Hosts(world, one=engine)
        query, secret = hosts.seal()
        assert b"Xylander" not in msgspec.msgpack.encode(query)
        engine.step = asyncio.Semaphore(1)
        telling = await world.asking.ask(MODEL, query, ANY)
        theirs, carried = world.fabric.ends[NodeId("one")].other, bytearray()
        send, send_now = theirs.send, theirs.send_now

        async def seen(message: bytes, **knobs: Any) -> None:
            carried.extend(message)
            await send(message, **knobs)

        def seen_now(message: bytes) -> bool:
            taken = send_now(message)
            carried.extend(message if taken else b"")
            return taken

        theirs.send, theirs.send_now = seen, seen_now  # type: ignore[method-assign]
        for _ in range(20):
            engine.step.release()
        sealed: list[bytes] = []
        while (data := await telling.next_sealed()) is not None:
            sealed.append(data)
        pieces = [secret.open_piece(data, number) for number, data in enumerate(sealed)]
        assert "".join(one.text for one in pieces) == "".join(engine.words)
        assert [one.end for one in pieces] == [""] * 20 + ["stop"]
        assert [one.at for one in pieces[:3]] == [0, 22, 44]
        assert telling.ended is not None
        assert telling.tokens == 21, "what quotas count is told in the open"
        assert len(carried) > 20 * FILL_BYTES
        assert b"Xylander" not in carried
        assert {len(data) for data in sealed} == {12 + FILL_BYTES + 16}, "no size tells which word it is"
        assert world.in_flight() == 0

    run(check)


def test_lost_host_ends_the_stream_and_its_client_goes_on_with_what_it_has() -> None:
    async def check(world: AnswerWorld) -> None:
        first, second = Spelling(), Spelling()
        first.step = asyncio.Semaphore(7)
        hosts = Hosts(world, one=first, two=second)
        query, secret = hosts.seal()
        telling = await world.asking.ask(MODEL, query, ANY)
        told: list[SecretPiece] = []
        while len(told) < 7:
            data = await telling.next_sealed()
            assert data is not None
            told.append(secret.open_piece(data, len(told)))
        await world.fabric.cut("one")
        assert await telling.next_sealed() is None
        assert telling.refused is not None
        assert telling.refused.reason is QueryRefusal.LOST
        assert second.given == [], "nobody but the client knows how far it was"

        given = Given(tokens=tuple(token for one in told for token in one.tokens), text="".join(o.text for o in told))
        query, secret = hosts.seal("two", given=given)
        rest = await opened(await world.asking.ask(MODEL, query, ANY), secret)
        assert given.text + "".join(one.text for one in rest) == "".join(first.words)
        assert second.given == [given]

    run(check)


def test_host_that_is_lost_before_it_said_anything_or_cannot_read_it_is_passed_unseen() -> None:
    async def check(world: AnswerWorld) -> None:
        engine = Spelling()
        hosts = Hosts(world, one=Spelling(), two=engine, three=Spelling())
        query, secret = hosts.seal("one", "two")
        hosts.keys[NodeId("one")]._private = HostSecret(NodeId("one"))._private  # started anew meanwhile
        telling = await world.asking.ask(MODEL, query, ANY)
        assert len(await opened(telling, secret)) == 21
        assert telling.host == "two"
        assert [step.came for step in telling.steps] == ["busy", "answered"]
        query = msgspec.structs.replace(query, capsules={NodeId("one"): query.capsules[NodeId("one")]})
        refused = (await world.asking.ask(MODEL, query, ANY)).refused
        assert refused is not None
        assert "not encrypted for this host as it runs now" in refused.what

    run(check)


def test_what_is_wrong_with_a_secret_text_only_its_client_is_told() -> None:
    async def check(world: AnswerWorld) -> None:
        hosts = Hosts(world, one=Spelling())
        query, secret = hosts.seal(asked=Generation())
        telling = await world.asking.ask(MODEL, query, ANY)
        (piece,) = await opened(telling, secret)
        assert "a prompt or a conversation" in piece.fault
        assert telling.refused is None
        assert world.counters.of("queries_not_answered") == 0
        open_one = await world.asking.ask(MODEL, ASKED, ANY)
        assert await whole(open_one)

    run(check)


def test_vectors_and_labels_of_secret_texts_come_sealed_and_whole() -> None:
    async def check(world: AnswerWorld) -> None:
        hosts = Hosts(world, one=simulated(width=8))
        for asked, width in (
            (TextBatch(task="embed", texts=("Xylander", "scurvy", "Xylander")), 8),
            (TextBatch(task="classify", texts=("Xylander", "scurvy", "Xylander")), 2),
        ):
            query, secret = hosts.seal(asked=asked)
            assert (query.task, query.texts) == (TextTask(asked.task), 3), "what it is priced by is told in the open"
            assert b"Xylander" not in msgspec.msgpack.encode(query)
            telling = await world.asking.ask(MODEL, query, ANY)
            (piece,) = await opened(telling, secret)
            open_one = await world.asking.ask(MODEL, asked, ANY)
            assert await open_one.next() is None
            assert open_one.batch is not None
            assert piece.values == open_one.batch.values
            assert piece.values is not None
            assert piece.values.shape == (3, width)
            assert piece.labels == open_one.batch.labels
            assert telling.tokens == open_one.tokens > 0
            assert telling.refused is None

    run(check)


def test_vectors_that_a_model_does_not_give_or_that_are_too_many_are_refused_and_the_latter_in_secret() -> None:
    async def check(world: AnswerWorld) -> None:
        hosts = Hosts(world, one=Spelling())
        query, _ = hosts.seal(asked=TextBatch(task="embed", texts=("Xylander",)))
        refused = (await world.asking.ask(MODEL, query, ANY)).refused
        assert refused is not None
        assert refused.reason is QueryRefusal.INPUT
        assert "does not embed: it generate" in refused.what

    run(check)

    async def many(world: AnswerWorld) -> None:
        hosts = Hosts(world, one=simulated(width=1024))
        query, secret = hosts.seal(asked=TextBatch(task="embed", texts=("Xylander",) * 1000))
        telling = await world.asking.ask(MODEL, query, ANY)
        (piece,) = await opened(telling, secret)
        assert "the answer has 4096000 bytes" in piece.fault
        assert "ask for fewer texts" in piece.fault
        assert telling.refused is None

    run(many)


def test_pieces_out_of_turn_or_of_another_query_are_not_opened() -> None:
    host = HostSecret(NodeId("one"))
    readers = {NodeId("one"): host.public}
    query, secret = seal_text(SecretText(asked=ASKED), readers, MODEL, LIKENESS)
    _, other = seal_text(SecretText(asked=ASKED), readers, MODEL, LIKENESS)
    made = host.open_text(SealedPart(capsule=query.capsules[NodeId("one")], data=query.data), MODEL, LIKENESS)
    first, second = made.seal(SecretPiece(at=0, text="a")), made.seal(SecretPiece(at=1, text="b"))
    assert secret.open_piece(first, 0).text == "a"
    for key, data, number in ((secret, second, 0), (secret, first, 1), (other, first, 0), (secret, b"", 0)):
        with pytest.raises(PeerError, match="not in turn"):
            key.open_piece(data, number)


@pytest.mark.parametrize("lie", ["open", "skipped"])
def test_host_that_answers_a_secret_in_the_open_or_leaves_a_piece_out_is_left(lie: str) -> None:
    async def check(world: AnswerWorld) -> None:
        hosts = Hosts(world, one=Spelling(), two=Spelling())

        async def lies(_: NodeId, __: str, stream: Any) -> None:
            data = await stream.receive()
            (frame,) = decode_to_host(data)
            open_one = TextPiece(query=frame.query, at=0, text="w0 ")
            said = open_one if lie == "open" else SealedPiece(query=frame.query, number=1, data=b"x")
            await stream.send(join_frames([encode_frame(said)]))
            await stream.receive()

        world.fabric.hosts[NodeId("one")] = lies
        query, secret = hosts.seal()
        telling = await world.asking.ask(MODEL, query, ANY)
        assert len(await opened(telling, secret)) == 21
        assert [step.came for step in telling.steps] == ["lost", "answered"]

    run(check)
