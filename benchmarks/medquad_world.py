"""The world of `benchmarks.medquad`: nine institutes' texts as vectors, what a view tells of them, and one run.

One process: files are mapped by a data shelf and described with OpenDP's noise under the demonstration's policy, views
are made by the map, rules, hyper-parameters, training, averaging and measuring are the product's; the network between
sites is left out. Transfers are counted, not made, and their bytes are those of the tensors that travel: the adapter,
and what the method takes along (momentum of the optimizer, averages). A visit to another site than the last one is a
transfer, the first from the owner; a round of averaging is one to and one from every site that takes part, as a round
rule of the product chooses them (Oort's from the losses that sites told, with no site slower than another). Central
training has every record in one place and counts no bytes.

All texts go through the frozen encoder once and are kept in a folder, as sites keep activations: an epoch through the
encoder costs minutes, an epoch of the adapter a second.

Legend: N records, D numbers of a vector, S sites.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import torch
from torch import nn

from benchmarks.payloads import layout_of, load_weights, store_weights
from daitn.artifacts.manifest import TravellingState
from daitn.base.ids import ArtifactId, DataSetId, DomainId, NodeId, OperatorId, OwnerId
from daitn.base.units import NS_PER_S
from daitn.decision.hyperparameters import propose_server, propose_training
from daitn.decision.rounds import ROUND_RULES
from daitn.decision.rounds.contract import Rounds, SiteReport
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.demo.medquad.data import contract_of, core_foci, read_institute
from daitn.demo.medquad.models import make_adapter
from daitn.demo.medquad.play import ON_A_BASE
from daitn.demo.medquad.sites import CARDIOLOGY, INSTITUTES, NOTARY_OPERATOR, POLICY, PURPOSE
from daitn.describe.column_map import ColumnMap
from daitn.describe.splits import held_out_rows
from daitn.descriptors.contract import DataContract
from daitn.descriptors.request import Request, parse_target
from daitn.descriptors.terminals import ComputeDescriptor, NodeDescriptor, Role, VerificationDescriptor
from daitn.descriptors.view import TrainingView
from daitn.descriptors.work import Measurement, Training
from daitn.learning.base_files import base_digest, base_width
from daitn.learning.methods import METHODS
from daitn.learning.methods.federated import FederatedAveraging
from daitn.learning.methods.sequential import Sequential
from daitn.learning.numerics.aggregate import Update, average, merge_states, plan_average
from daitn.learning.numerics.sources import MemorySlice, TableSource
from daitn.learning.numerics.train import ModelState, Seeds, TrainResult, train
from daitn.learning.records import encode_records
from daitn.learning.tasks import numerics_for
from daitn.learning.tasks.contract import RecordSlice, RecordSource, TaskNumerics, groups_of, take_rows
from daitn.learning.vectors import embedded_inputs, map_vectors, vector_file
from daitn.node.datasets import DataShelf
from daitn.topology.knowledge_map import KnowledgeMap
from daitn.topology.relevance import needs_of
from daitn.topology.views import Asker, make_training_view

CENTRAL: Final = "central"
NAMES: Final = ("accuracy@core", "accuracy@ninds", "accuracy@broad")
SECRET: Final = b"medquad-benchmark-site-secret!!!"
NOW_NS: Final = 1_700_000_000 * NS_PER_S
ROUNDS_MOST: Final = 12
"""Passes over all nine institutes after which a run ends: 2,160 steps. Beyond it all methods learn the questions by
heart: in one run three times as long no field rose further."""


def find_data() -> Path | None:
    """MedQuAD: `DAITN_DATA`/medquad, or ../shared/data/medquad beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DAITN_DATA", str(beside))) / "medquad"
    return folder if (folder / "cardiology_foci.csv").exists() else None


@dataclass(frozen=True)
class World:
    """Sites by data set, all their training records in one place, held-out records, and the map that knows of them."""

    contract: DataContract
    sites: Mapping[DataSetId, RecordSource]
    pooled: RecordSource
    tests: tuple[RecordSlice, ...]
    knowledge: KnowledgeMap

    @property
    def task(self) -> TaskNumerics:
        """Loss and figures of the contract's task."""
        return numerics_for(self.contract.task, self.contract)

    def measure(self, model: nn.Module) -> dict[str, Measurement]:
        """Figures on all held-out records, as the verification unit makes them."""
        with torch.inference_mode():
            return {one.name: one for one in self.task.evaluate(model, self.tests, NAMES)}

    def view(self, method: str, needs: dict[str, float]) -> TrainingView:
        """What the control centre decides on, for a department that wants all three fields."""
        asker = Asker(
            owner=OwnerId(CARDIOLOGY), signer="signer", method=method, domain=DomainId("benchmark"), needs=needs
        )
        request = Request(
            name="medical",
            package=ArtifactId("0" * 64),
            purpose=PURPOSE,
            targets=tuple(parse_target(f"{name} >= 0.8") for name in NAMES),
            deadline_s=3600.0,
        )
        view = make_training_view(self.knowledge, request, self.contract, asker, {}, (), NOW_NS + NS_PER_S)
        if len(view.candidates) != len(self.sites):
            raise SystemExit(f"{len(view.candidates)} of {len(self.sites)} sites are in the view: {view.excluded[:3]}")
        return view


def make_world(data: Path, base: Path, folder: Path) -> World:
    """Map, encode and describe nine institutes below `folder`; what is there already is used again."""
    digest = base_digest(base)
    contract = contract_of(digest, base_width(base))
    shelf = DataShelf(folder / "shelf", SECRET)
    core, known = core_foci(data), {entry.name for entry in shelf.list()}
    sites: dict[DataSetId, RecordSource] = {}
    tests: list[RecordSlice] = []
    knowledge = KnowledgeMap()
    for one in INSTITUTES:
        if one.name not in known:
            path = folder / f"{one.name}.jsonl"
            rows = read_institute(data, one, core)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            shelf.add(one.name, path, contract, POLICY, ColumnMap())
        table, dataset = shelf.table(one.name), DataSetId(f"{one.name}/{one.name}")
        _encode(shelf, one.name, contract, base, folder / "vectors" / one.name)
        vectors = map_vectors(folder / "vectors" / one.name, contract)
        sites[dataset] = TableSource(table, contract, dataset, {}, vectors)
        rows_held = held_out_rows(table, contract)
        held = encode_records(table, contract, rows_held, dataset, None, vectors)
        tests.append(take_rows(held, np.arange(len(rows_held))))
        described = shelf.descriptor(one.name, one.name)
        _describe(knowledge, NodeDescriptor(
            node=NodeId(one.name), name=one.name, operator=OperatorId(one.name), roles=(Role.DATA, Role.COMPUTE),
            public_key="", data=(described,), compute=_machine(), bases=(digest,),
        ))  # fmt: skip
    for role, name in ((Role.VERIFICATION, NOTARY_OPERATOR), (Role.AGGREGATOR, "averaging")):
        unit = VerificationDescriptor(evaluations_per_job=10_000, public_key="") if role is Role.VERIFICATION else None
        _describe(knowledge, NodeDescriptor(
            node=NodeId(name), name=name, operator=OperatorId(name), roles=(role,), public_key="", data=(),
            compute=_machine(), verification=unit,
        ))  # fmt: skip
    return World(contract, sites, _pool(sites), tuple(tests), knowledge)


def _machine() -> ComputeDescriptor:
    return ComputeDescriptor(slots=1, cores=2, memory_bytes=8e9, storage_bytes=1e11, flops=1e10)


def _describe(knowledge: KnowledgeMap, node: NodeDescriptor) -> None:
    knowledge.describe(node, 1, NOW_NS)
    knowledge.heard(node.node, 1, NOW_NS)


def _encode(shelf: DataShelf, name: str, contract: DataContract, base: Path, folder: Path) -> None:
    """Vectors of both columns, in the files that a site keeps them in."""
    from daitn.learning.bases import FrozenBase

    folder.mkdir(parents=True, exist_ok=True)
    table, encoder = shelf.table(name), None
    for spec in embedded_inputs(contract):
        path = folder / vector_file(spec)
        if path.exists():
            continue
        encoder = encoder or FrozenBase(base)
        column = table.texts(spec.column)
        texts = [column.text(row) for row in range(table.rows)]
        made = np.zeros((table.rows, spec.width), dtype="<f2")
        for rows, vectors in encoder.embed(texts, spec.length, spec.pooling):
            made[rows] = vectors
        beside = path.with_suffix(".new")
        made.tofile(beside)
        beside.replace(path)


def _pool(sites: Mapping[DataSetId, RecordSource]) -> MemorySlice:
    """Training records of all sites, groups apart."""
    parts = [site.take(np.arange(len(site))) for site in sites.values()]
    groups, first = [], 0
    for site in sites.values():
        own = groups_of(site)
        assert own is not None
        numbers = np.unique(own, return_inverse=True)[1].reshape(-1)
        groups.append(numbers + first)
        first += int(numbers.max()) + 1
    whole = RecordSlice(
        inputs={name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        labels=None,
        fields=np.zeros((sum(map(len, sites.values())), 0), dtype=np.bool_),
        dataset="all",
        groups=np.concatenate(groups),
    )
    return MemorySlice(DataSetId("all"), whole)


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is when it is measured. `updates`: steps of all sites; `transfer_bytes`: between sites, or sites and
    aggregator; `check_bytes`: to the verification unit."""

    updates: int
    transfers: int
    transfer_bytes: int
    check_bytes: int
    figures: dict[str, float]


class _Count(msgspec.Struct, kw_only=True):
    updates: int = 0
    transfers: int = 0
    transfer_bytes: int = 0
    carried_bytes: int = 0
    """What the model weighs now, with what it takes along."""


def run_method(world: World, method: str, seed: int) -> list[Moment]:
    """Train for `ROUNDS_MOST` passes' worth of steps, measured before the first visit and after every visit or round.

    The order of records follows from the seed; the first weights are the base itself, whatever the seed.
    """
    torch.manual_seed(seed)
    width = next(iter(embedded_inputs(world.contract))).width
    model = make_adapter(width)
    count = _Count(carried_bytes=_weight_bytes(model))
    first = world.measure(model)
    moments = [_moment(count, first, checked=0)]
    steps_most = ROUNDS_MOST * len(world.sites) * (ON_A_BASE.batches_per_visit or 1)
    if method == CENTRAL:
        advance = _central(world, model, seed, count)
    else:
        kind, view = METHODS[method], world.view(method, needs_of(first.values()))
        training, _ = propose_training(
            view, ON_A_BASE, parallel=kind.parallel, steady=kind.steady, prefers=kind.prefers
        )
        if isinstance(kind, Sequential):
            advance = _sequential(world, kind.rule, view, model, training, seed, count)
        else:
            if not isinstance(kind, FederatedAveraging) or propose_server(kind.prefers, ON_A_BASE) is not None:
                raise SystemExit(f"{method} is more than a mean of models, which is all that this harness does")
            advance = _federated(world, kind.rounds, view, model, training, seed, count)
    checked = 0
    while count.updates < steps_most:
        next(advance)
        checked += count.carried_bytes
        moments.append(_moment(count, world.measure(model), checked=checked))
    return moments


def _moment(count: _Count, found: Mapping[str, Measurement], *, checked: int) -> Moment:
    return Moment(
        updates=count.updates,
        transfers=count.transfers,
        transfer_bytes=count.transfer_bytes,
        check_bytes=checked,
        figures={name: found[name].value for name in NAMES},
    )


def _weight_bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _visit(
    world: World, model: nn.Module, source: RecordSource, training: Training, state: ModelState, seed: int
) -> TrainResult:
    return train(model, world.task, source, training, state, seeds=Seeds(job=seed, visit=seed))


def _central(world: World, model: nn.Module, seed: int, count: _Count) -> Iterator[None]:
    """Visits to the one place that has every record."""
    view = world.view("cyclic", {})
    training, _ = propose_training(view, ON_A_BASE, parallel=False)
    state = ModelState()
    while True:
        state = _visit(world, model, world.pooled, training, state, seed).state
        count.updates += training.batches
        yield


def _sequential(
    world: World, rule: str, view: TrainingView, model: nn.Module, training: Training, seed: int, count: _Count
) -> Iterator[None]:
    state, records, seen = ModelState(), training.batches * training.batch_size, Seen(seed=seed)
    while True:
        stop = RULES[rule].next_stop(view, seen, records)
        if stop is None:
            raise SystemExit(f"rule {rule} finds no stop")
        if stop.dataset != seen.last:
            count.transfers += 1
            count.transfer_bytes += count.carried_bytes
        state = _visit(world, model, world.sites[stop.dataset], training, state, seed).state
        slots = sum(slot.numel() * slot.element_size() for slot in state.slots.values())
        count.carried_bytes = _weight_bytes(model) + slots
        seen = Seen(visits=(*seen.visits, (stop.dataset, records)), seed=seed)
        count.updates += training.batches
        yield


def _federated(
    world: World,
    rule: str,
    view: TrainingView,
    model: nn.Module,
    training: Training,
    seed: int,
    count: _Count,
) -> Iterator[None]:
    """Round after round: the sites that the rule takes train from one model, the mean by records is the next one."""
    layout = layout_of(model)
    payload, state = bytearray(layout.payload_bytes), TravellingState()
    reports: list[SiteReport] = []
    store_weights(model, layout, payload)
    for number in itertools.count():
        updates, states = [], []
        known = Rounds(reports=tuple(reports), round=number, seed=seed)
        for stop in ROUND_RULES[rule].choose(view, known, len(world.sites)):
            dataset, source = stop.dataset, world.sites[stop.dataset]
            load_weights(model, layout, payload)
            came = _visit(world, model, source, training, ModelState(state), seed)
            states.append(came.state.travelling)
            reports.append(_report(dataset, number, came))
            own = bytearray(layout.payload_bytes)
            store_weights(model, layout, own)
            updates.append(Update(dataset, float(len(source)), layout.entries, memoryview(own), states[-1]))
            count.updates += training.batches
            count.transfers += 2
            count.transfer_bytes += 2 * layout.payload_bytes
        average(updates, plan_average(updates), memoryview(payload))
        state = merge_states(states)
        load_weights(model, layout, payload)
        yield


def _report(dataset: DataSetId, number: int, came: TrainResult) -> SiteReport:
    """What a visit told, as the centre books it; all sites are equally fast."""
    return SiteReport(
        dataset=dataset, round=number, loss=came.loss_first, records=came.records, seconds=float(came.batches)
    )
