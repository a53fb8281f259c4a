"""Models that are cut in two and trained by two members in memory, beside the same models trained whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from tests.meeting import Place, play
from torch import Tensor, nn

from daitn.artifacts.manifest import TensorEntry
from daitn.base.ids import DataSetId
from daitn.descriptors.contract import DataContract, decode_contract
from daitn.descriptors.work import Training
from daitn.learning.graphs.cutting import cut_fault, cut_graph, narrow_places
from daitn.learning.graphs.export import export_pair
from daitn.learning.graphs.rebuild import RebuiltModule, rebuild
from daitn.learning.numerics.slots import plan_result
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.split import (
    RECORDS,
    SplitModel,
    join_as_middle,
    join_at_records,
    parts_of,
    train_middle,
)
from daitn.learning.numerics.train import ModelState, TrainResult, train
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice

DATASET = DataSetId("north/made")
INPUTS = 16
CPU = torch.device("cpu")


def contract() -> DataContract:
    """Sixteen numbers in, one of four labels out."""
    columns: list[dict[str, Any]] = [{"type": "number", "name": f"x{n}"} for n in range(INPUTS)]
    columns.append({"type": "category", "name": "y", "values": list("abcd")})
    names = [f"x{n}" for n in range(INPUTS)]
    inputs = [{"type": "numbers", "name": "x", "columns": names}]
    made = {"name": "made", "columns": columns, "inputs": inputs, "task": {"type": "classification", "label": "y"}}
    return decode_contract(json.dumps(made).encode())


class Layers(nn.Module):
    """Dense layers with what makes cutting hard: running statistics, in-place activations, a way around."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 24)
        self.norm = nn.BatchNorm1d(24)
        self.deep = nn.Linear(24, 24)
        self.norm2 = nn.BatchNorm1d(24)
        self.last = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = x + nn.functional.relu(self.norm2(self.deep(x)), inplace=True)
        found: Tensor = self.last(torch.tanh(x))
        return found


class Picture(nn.Module):
    """Convolutions over the numbers as an image of four by four."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.head = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x.reshape(-1, 1, 4, 4)).flatten(1))
        return found


class Sequence(nn.Module):
    """A small transformer over the numbers as four tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(3)
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.reshape(-1, 4, 4))
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.head(x.mean(1))
        return found


def rebuilt(kind: type[nn.Module], seed: int = 0) -> RebuiltModule:
    """The module as a site has it."""
    torch.manual_seed(seed)
    pair, tensors = export_pair(kind(), {"x": torch.randn(4, INPUTS)}, {"x": ("batch", None)})
    return rebuild(pair, {name: tensor.clone() for name, tensor in tensors.items()})


def again(module: RebuiltModule) -> RebuiltModule:
    """Another module of the same graph and numbers."""
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return rebuild(module.pair, {name: copy.deepcopy(tensor.detach()) for name, tensor in named.items()})


def records(count: int = 100, seed: int = 0) -> MemorySlice:
    """Records of random numbers with labels that follow from them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, INPUTS)).astype(np.float32)
    labels = (2 * (x[:, 0] > 0) + (x[:, 1] > 0)).astype(np.int64)
    fields = np.zeros((count, 0), dtype=np.bool_)
    return MemorySlice(DATASET, RecordSlice(inputs={"x": x}, labels=labels, fields=fields, dataset=DATASET))


class Trained(NamedTuple):
    """A member's whole model afterwards, and what it reports."""

    tensors: dict[str, Tensor]
    result: TrainResult
    moved_bytes: int


def entries_of(module: RebuiltModule, training: Training) -> tuple[TensorEntry, ...]:
    """The layout of what is handed on."""
    entries = [
        TensorEntry(name=name, dtype=cast(Any, str(one.dtype))[6:], shape=tuple(one.shape), role=role, offset=0)
        for role, named in (
            (cast(Any, "parameter"), module.named_parameters()),
            (cast(Any, "buffer"), module.named_buffers()),
        )
        for name, one in named
    ]
    return plan_result(entries, training).entries


def trainable(module: RebuiltModule) -> dict[str, nn.Parameter]:
    return {name: one for name, one in module.named_parameters() if one.requires_grad}


def state_of(module: RebuiltModule) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in (*module.named_parameters(), *module.named_buffers())}


def train_whole(module: RebuiltModule, training: Training, state: ModelState | None = None, seed: int = 0) -> Trained:
    """At one site, as ever."""
    task = numerics_for(contract().task, contract(), CPU)
    result = train(module, task, records(seed=seed), training, state or ModelState())
    return Trained(state_of(module), result, 0)


def member(
    module: RebuiltModule, place: Place, cut: tuple[int, int], training: Training, state: ModelState, seed: int = 0
) -> Trained:
    """One member's half of a split visit: what a child does."""
    parts = cut_graph(module.pair, *cut)
    mine = {
        name: one
        for name, one in trainable(module).items()
        if (name in parts.crossing.middle_tensors) == (place.rank != RECORDS)
    }
    arrived = {name: one.detach().clone() for name, one in mine.items()}
    if place.rank == RECORDS:
        model = SplitModel(module, parts, place)
        task, source = numerics_for(contract().task, contract(), CPU), records(seed=seed)
        result = train(model, task, source, training, state, parameters=mine, arrived=arrived, clip=model.clip)
    else:
        result = train_middle(module, parts, place, training, state, parameters=mine, arrived=arrived)
    slots: dict[str, Tensor] = dict(result.state.slots)
    named: Mapping[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    both = parts_of(entries_of(module, training), parts, slots, lambda name: named[name].detach())
    if place.rank == RECORDS:
        result = join_at_records(model, result, DATASET, both)
    else:
        result = join_as_middle(place, result, training, DATASET, both)
    state = ModelState(travelling=result.state.travelling, slots=slots)
    return Trained(state_of(module), replace(result, state=state), place.moved_bytes)


def train_split(
    module: RebuiltModule,
    cut: tuple[int, int],
    training: Training,
    state: ModelState | None = None,
    tamper: Any = None,
    seed: int = 0,
) -> list[Any]:
    """Both members, each from `module`; what each has, or the error it ended with."""
    copies = [again(module), again(module)]
    before = state or ModelState()
    slots = [{name: one.clone() for name, one in before.slots.items()} for _ in copies]

    def work(rank: int, place: Place) -> Trained:
        mine = ModelState(travelling=before.travelling, slots=slots[rank])
        return member(copies[rank], place, cut, training, mine, seed)

    return play(2, work, tamper)


def some_cut(module: RebuiltModule) -> tuple[int, int]:
    """A cut with a third of the graph on either side, as far as there is one."""
    places = narrow_places(module.pair.train)
    cuts = [(a, b) for a in places for b in places if a < b and not cut_fault(module.pair, a, b)]
    assert cuts, "the graph has no cut"
    return max(cuts, key=lambda cut: cut[1] - cut[0])
