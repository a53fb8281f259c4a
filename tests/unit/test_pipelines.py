"""Pipelines: several models asked as one, each leaf a query of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.unit.test_asking import carried

from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.base.metrics import Counters
from daitn.control_center.inference.query_admission import QueryRefusal, Refused
from daitn.control_center.inference.query_engine import QueryRouteEngine
from daitn.descriptors.grant import Holder
from daitn.descriptors.pipelines import Pipeline, Step, check_pipelines
from daitn.descriptors.serving import QueryGoal, ReplicaMeasured, Route, ServedModel, ServingGoal, TensorSpec
from daitn.node.serving.asking import Asking
from daitn.node.serving.combining import Combined, Combining
from daitn.node.site_files import load_pipelines
from daitn.serving.tensors import Arrays, arrays_of, tensors_of
from daitn.wire.queries import QueryAnswer, QueryCall

ROWS = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]], np.float32)
Model = Callable[[Arrays], Arrays]


def shares(*values: float) -> Model:
    """A model that says the same of every row."""
    return lambda inputs: {"p": np.tile(np.array(values, np.float32), (len(next(iter(inputs.values()))), 1))}


class Domain:
    """A gateway whose hosts are functions; `asked` are the models in their order."""

    def __init__(self, *pipelines: dict[str, Any]) -> None:
        self.models: dict[str, tuple[Model, tuple[str, ...], dict[str, float]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.dead: set[str] = set()
        self.slow: set[str] = set()
        self.first_dies: set[str] = set()
        """Models of which the host that is asked first is gone by then."""
        self.pipelines = [msgspec.convert(one, Pipeline) for one in pipelines]
        self.counters = Counters()
        self.engine = QueryRouteEngine()
        self.now_s = 0.0

    def add(self, name: str, model: Model, *inputs: str, **quality: float) -> Domain:
        self.models[name] = (model, inputs or ("x",), quality)
        return self

    def ask(self, name: str, goal: QueryGoal = QueryGoal(), **inputs: Any) -> Combined:  # noqa: B008
        return asyncio.run(self._ask(name, inputs or {"x": ROWS}, goal))

    async def _ask(self, name: str, inputs: Arrays, goal: QueryGoal) -> Combined:
        return await self.combining().ask(name, inputs, goal)

    def combining(self) -> Combining:
        self.engine.follow([self._served(name) for name in self.models], time.monotonic_ns())
        asking = Asking(self.engine, carried(self._call), self.counters)
        return Combining(self.pipelines, self.engine, asking, self.counters, seed=1, clock=lambda: self.now_s)

    def _served(self, name: str) -> ServedModel:
        _, inputs, quality = self.models[name]
        measured = ReplicaMeasured(row_s=0.001, batch_rows=8, batch_s=0.002)
        return ServedModel(
            model=ModelName(name),
            artifact=ArtifactId("a" * 64),
            owner=OwnerId("ada"),
            goal=ServingGoal(),
            inputs=tuple(TensorSpec(name=one, datatype="FP32", shape=(-1, -1)) for one in inputs),
            outputs=(TensorSpec(name="p", datatype="FP32", shape=(-1, 2)),),
            quality={key.replace("_", "@"): value for key, value in quality.items()},
            routes=tuple(Route(host=Holder(node=NodeId(f"{name}{host}")), measured=measured) for host in (1, 2)),
        )

    async def _call(self, host: NodeId, call: QueryCall, timeout_s: float) -> QueryAnswer:
        self.asked.append((call.model, host))
        if call.model in self.first_dies:
            self.first_dies.remove(call.model)
            self.dead.add(host)
        if host in self.dead:
            raise UnavailableError("nobody there")
        if call.model in self.slow:
            await asyncio.sleep(timeout_s)
        outputs = self.models[call.model][0](arrays_of(call.inputs))
        return QueryAnswer(outputs=tensors_of(outputs), engine_s=0.001)


def leaf(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "model", "model": name, **more}


def values(found: Combined, name: str = "p") -> list[list[float]]:
    assert not isinstance(found.outcome, Refused), found.outcome
    return [[round(float(one), 4) for one in row] for row in found.outcome[name]]


def test_sequence_is_what_its_models_are_one_after_the_other_and_a_lost_stage_is_asked_elsewhere() -> None:
    step = {
        "kind": "sequence",
        "steps": [leaf("first", outputs={"h": "hidden"}), leaf("second", inputs={"x": "hidden"})],
    }
    domain = Domain({"name": "both", "step": step})
    domain.add("first", lambda inputs: {"h": inputs["x"] + 1}).add("second", lambda inputs: {"p": inputs["x"] * 3})
    domain.first_dies = {"first", "second"}
    found = domain.ask("both")
    assert values(found) == ((ROWS + 1) * 3).tolist()
    assert sorted(host for _, host in domain.asked) == ["first1", "first2", "second1", "second2"]
    assert [[step.came for step in one.steps] for one in found.asked] == [["lost", "answered"]] * 2


def test_model_cut_in_two_says_what_the_whole_one_says() -> None:
    """Layers over two hosts: what goes between them is exact, so the answers are equal."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2)]
    whole = torch.nn.Sequential(*layers)

    def part(*own: Any) -> Model:
        module = torch.nn.Sequential(*own)

        def run(inputs: Arrays) -> Arrays:
            with torch.inference_mode():
                return {"p": module(torch.from_numpy(inputs["x"].copy())).numpy()}

        return run

    step = {"kind": "sequence", "steps": [leaf("head"), leaf("tail", inputs={"x": "p"})]}
    domain = Domain({"name": "cut", "step": step}).add("head", part(*layers[:3])).add("tail", part(*layers[3:]))
    rows = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    found = domain.ask("cut", x=rows)
    assert isinstance(found.outcome, dict)
    with torch.inference_mode():
        np.testing.assert_allclose(found.outcome["p"], whole(torch.from_numpy(rows)).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("join", "weights", "wanted"),
    [
        ("mean", "equal", [0.5, 0.5]),
        ("vote", "equal", [0.6667, 0.3333]),
        ("vote", "measured", [0.0, 1.0]),
        ("mean", "measured", [0.1, 0.9]),
    ],
)
def test_ensemble_joins_its_answers_by_mean_or_vote_equal_or_as_measured(
    join: str, weights: str, wanted: list[float]
) -> None:
    step = {
        "kind": "ensemble",
        "steps": [leaf("one"), leaf("two"), leaf("three")],
        "output": "p",
        "join": join,
        "weights": weights,
    }
    domain = Domain({"name": "all", "step": step})
    # Accuracy in the field decides; one half is as good as chance, and says nothing.
    domain.add("one", shares(0.7, 0.3), accuracy=0.99, accuracy_lungs=0.5)
    domain.add("two", shares(0.7, 0.3), accuracy=0.99, accuracy_lungs=0.5)
    domain.add("three", shares(0.1, 0.9), accuracy=0.5, accuracy_lungs=0.9)
    assert values(domain.ask("all", QueryGoal(field="lungs")))[0] == wanted


def test_quorum_is_enough_and_a_slow_host_does_not_delay() -> None:
    step = {"kind": "ensemble", "steps": [leaf("one"), leaf("two"), leaf("slow")], "output": "p", "quorum": 2}
    domain = Domain({"name": "all", "step": step})
    domain.add("one", shares(1, 0)).add("two", shares(0, 1)).add("slow", shares(1, 1))
    domain.slow = {"slow"}
    found = domain.ask("all")
    assert values(found)[0] == [0.5, 0.5]
    assert found.took_s < 1
    assert found.notices == ("answered without slow: a quorum was there",)


def test_branch_that_gets_no_answer_is_left_out_with_a_notice_unless_a_quorum_needs_it() -> None:
    branches = {"kind": "ensemble", "steps": [leaf("one"), leaf("two")], "output": "p"}
    strict = {"name": "strict", "step": {**branches, "quorum": 2}}
    domain = Domain({"name": "all", "step": branches}, strict).add("one", shares(1, 0)).add("two", shares(0, 1))
    domain.dead = {"two1", "two2"}
    found = domain.ask("all")
    assert values(found)[0] == [1, 0]
    assert found.notices == ("answered without two: lost",)
    refused = domain.ask("strict").outcome
    assert isinstance(refused, Refused)
    assert refused.reason is QueryRefusal.LOST
    assert domain.counters.of("pipelines_asked", "refused") == 1


def test_missing_modality_degrades_with_a_notice() -> None:
    step = {"kind": "ensemble", "steps": [leaf("eyes"), leaf("notes")], "output": "p", "partial": True}
    domain = Domain({"name": "fused", "step": step})
    domain.add("eyes", shares(1, 0), "image").add("notes", shares(0, 1), "text")
    both = domain.ask("fused", image=ROWS, text=ROWS)
    assert (values(both)[0], both.notices) == ([0.5, 0.5], ())
    one = domain.ask("fused", text=ROWS)
    assert values(one)[0] == [0, 1]
    assert one.notices == ("answered without eyes: the query has no image",)
    with pytest.raises(InputError, match="inputs of no branch"):
        domain.ask("fused", sound=ROWS)


def test_cascade_asks_the_next_model_only_about_rows_that_are_not_sure() -> None:
    def cheap(inputs: Arrays) -> Arrays:
        sure = inputs["x"][:, :1]
        return {"p": np.concatenate([sure, 1 - sure], axis=1)}

    step = {"kind": "cascade", "steps": [leaf("cheap"), leaf("dear")], "output": "p", "sure": 0.8}
    domain = Domain({"name": "switched", "step": step}).add("cheap", cheap).add("dear", shares(0.5, 0.5))
    rows = np.array([[0.9, 0], [0.6, 0], [0.1, 0], [0.5, 0]], np.float32)
    assert values(domain.ask("switched", x=rows)) == [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9], [0.5, 0.5]]
    assert [name for name, _ in domain.asked] == ["cheap", "dear"]
    domain.asked.clear()
    assert values(domain.ask("switched", x=rows[:1])) == [[0.9, 0.1]]
    assert [name for name, _ in domain.asked] == ["cheap"]


def test_splitter_asks_as_its_shares_say() -> None:
    step = {"kind": "splitter", "steps": [leaf("old"), leaf("new")], "shares": [9, 1]}
    domain = Domain({"name": "canary", "step": step}).add("old", shares(1, 0)).add("new", shares(0, 1))

    async def many() -> None:
        combining = domain.combining()
        for _ in range(200):
            await combining.ask("canary", {"x": ROWS}, QueryGoal())

    asyncio.run(many())
    assert 8 <= sum(name == "new" for name, _ in domain.asked) <= 36


def test_deadline_is_that_of_all_steps_together() -> None:
    step = {"kind": "sequence", "steps": [leaf("one"), leaf("two", inputs={"x": "p"})]}

    def slowly(inputs: Arrays) -> Arrays:
        domain.now_s += 6.0
        return {"p": inputs["x"]}

    domain = Domain({"name": "long", "step": step}).add("one", slowly).add("two", slowly)
    refused = domain.ask("long", QueryGoal(deadline_s=5.0)).outcome
    assert isinstance(refused, Refused)
    assert refused.reason is QueryRefusal.LATE
    assert [name for name, _ in domain.asked] == ["one"]
    assert not isinstance(domain.ask("long", QueryGoal(deadline_s=13.0)).outcome, Refused)


def test_what_a_pipeline_takes_and_answers_is_told_by_its_models() -> None:
    inner = {"kind": "ensemble", "steps": [leaf("eyes"), leaf("notes", inputs={"text": "report"})], "output": "p"}
    step = {"kind": "sequence", "steps": [inner, leaf("last", inputs={"x": "p"})]}
    domain = Domain({"name": "whole", "step": step})
    domain.add("eyes", shares(1, 0), "image").add("notes", shares(1, 0), "text").add("last", shares(1, 0))
    described = domain.combining().described("whole")
    assert described is not None
    assert [spec.name for spec in described.inputs] == ["image", "report"]
    assert [spec.name for spec in described.outputs] == ["p"]
    assert described.routes
    assert domain.combining().described("other") is None


def test_query_that_does_not_fit_and_model_that_is_not_there_are_told() -> None:
    domain = Domain({"name": "one", "step": leaf("there")}, {"name": "two", "step": leaf("ther")})
    domain.add("there", shares(1, 0))
    with pytest.raises(InputError, match="needs x, which nobody gives"):
        domain.ask("one", y=ROWS)
    refused = domain.ask("two").outcome
    assert isinstance(refused, Refused)
    assert refused.reason is QueryRefusal.UNKNOWN_MODEL
    assert "there" in refused.what


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (leaf("other"), "other, which is a pipeline"),
        ({"kind": "ensemble", "steps": [leaf("a"), leaf("b")], "output": "p", "quorum": 3}, "3 answers of 2 branches"),
        ({"kind": "splitter", "steps": [leaf("a"), leaf("b")], "shares": [1, 0, 2]}, "3 shares for 2 steps"),
        ({"kind": "splitter", "steps": [leaf("a"), leaf("b")], "shares": [0, 0]}, "are all 0"),
        (leaf("a", outputs={"x": "z", "y": "z"}), "two outputs one name"),
        (
            {
                "kind": "ensemble",
                "steps": [leaf("a"), {"kind": "sequence", "steps": [leaf("b")]}],
                "output": "p",
                "weights": "measured",
            },
            "branch 2: what is weighted",
        ),
    ],
)
def test_pipeline_that_does_not_hold_together_is_refused_with_the_place(step: dict[str, Any], told: str) -> None:
    pipelines = tuple(
        msgspec.convert({"name": name, "step": one}, Pipeline) for name, one in (("one", step), ("other", leaf("a")))
    )
    with pytest.raises(InputError, match=told):
        check_pipelines(pipelines)


def test_pipelines_too_deep_or_too_large_are_refused() -> None:
    deep: dict[str, Any] = leaf("a")
    for _ in range(9):
        deep = {"kind": "sequence", "steps": [deep]}
    wide = {"kind": "sequence", "steps": [{"kind": "sequence", "steps": [leaf("a")] * 16}] * 5}
    for step, told in ((deep, "deeper than 8"), (wide, "86 steps, the limit is 64")):
        with pytest.raises(InputError, match=told):
            check_pipelines((Pipeline(name=ModelName("one"), step=msgspec.convert(step, Step)),))


def test_file_of_pipelines_is_read_and_its_faults_are_told(tmp_path: Path) -> None:
    file = tmp_path / "pipelines.toml"
    file.write_text(
        '[[pipeline]]\nname = "fused"\n[pipeline.step]\nkind = "ensemble"\noutput = "p"\npartial = true\n'
        '[[pipeline.step.steps]]\nkind = "model"\nmodel = "eyes"\n'
        '[[pipeline.step.steps]]\nkind = "model"\nmodel = "notes"\ninputs = { text = "report" }\n'
    )
    ((pipeline,), switches) = load_pipelines(file)
    assert (pipeline.name, switches) == ("fused", ())
    file.write_text('[[switch]]\nname = "a"\ncheap = "b"\ndear = "c"\noutcomes = "seen.jsonl"\n')
    assert load_pipelines(file)[1][0].outcomes == str(tmp_path / "seen.jsonl")
    same = '[[switch]]\nname = "a"\ncheap = "b"\ndear = "b"\noutcomes = "x"'
    for text, told in (
        ("", "pipeline"),
        (same, "two models are wanted"),
        ('[[pipeline]]\nname = "a"\nstep = { kind = "magic" }', "magic"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=told):
            load_pipelines(file)
