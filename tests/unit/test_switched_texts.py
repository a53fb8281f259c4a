"""Two models of texts asked as one: the dearer where it is worth it, the other where one cannot answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.answer_world import AnswerWorld, Spelling
from tests.server_world import KEY, gateway

from daitn.base.errors import InputError
from daitn.base.ids import ModelName
from daitn.descriptors.pipelines import TextSwitch
from daitn.descriptors.texts import Generation, TextBatch, Turn
from daitn.node.serving.switching import Switching, learn_from, text_of

openai = pytest.importorskip("openai")

SMALL, LARGE = ModelName("small"), ModelName("large")
EASY = "what is the capital of the country number {}"
HARD = "prove the theorem on integral {} by induction over its derivative"


def write_outcomes(path: Path, count: int = 60) -> TextSwitch:
    """The small model is right about capitals, the large one about both."""
    lines = [
        {"text": (EASY, HARD)[hard].format(n), "cheap": not hard, "dear": True} for n in range(count) for hard in (0, 1)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return TextSwitch(name=ModelName("either"), cheap=SMALL, dear=LARGE, outcomes=str(path))


def test_model_is_chosen_by_what_suffices_and_the_other_answers_where_it_cannot(tmp_path: Path) -> None:
    switching = Switching((write_outcomes(tmp_path / "seen.jsonl"),))

    async def check() -> None:
        await switching.learn()
        async with AnswerWorld() as world, gateway(world, switching=switching) as door:
            world.add("one", Spelling(words=2), model=SMALL)
            world.add("two", Spelling(words=3), model=LARGE)
            client = openai.AsyncOpenAI(base_url=door.address + "/v1", api_key=str(KEY), max_retries=0)

            async def ask(text: str) -> tuple[str, str]:
                raw = await client.chat.completions.with_raw_response.create(
                    model="either", messages=[{"role": "user", "content": text}]
                )
                return raw.headers["x-daitn-model"], raw.parse().model

            listed: list[Any] = [model.id async for model in client.models.list()]
            assert listed == [SMALL, LARGE, "either"]
            assert await ask(EASY.format(99)) == (SMALL, "either")
            assert await ask(HARD.format(99)) == (LARGE, "either")
            await world.fabric.cut("two")
            assert await ask(HARD.format(98)) == (SMALL, "either")
            await client.close()

    asyncio.run(check())


def test_name_that_is_no_switch_is_itself() -> None:
    asked = Generation(turns=(Turn(role="system", text="a"), Turn(role="user", text="b")))
    assert asyncio.run(Switching(()).models_for("m", asked)) == ("m",)
    assert [text_of(one) for one in (asked, Generation(prompt="c"), TextBatch(task="embed", texts=("d", "e")))] == [
        *("b", "c", "d")
    ]


def test_outcomes_that_cannot_be_learnt_from_are_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "seen.jsonl"
    with pytest.raises(InputError, match="cannot be read"):
        learn_from(path)
    write_outcomes(path, count=3)
    with pytest.raises(InputError, match="at least 20"):
        learn_from(path)
    path.write_text(path.read_text() + '\n{"text": "a", "cheap": 3}')
    with pytest.raises(InputError, match="line 7"):
        learn_from(path)
