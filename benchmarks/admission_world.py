"""The world of `benchmarks.admission`: what is learnt where, and one run of it from the trial to its last visit.

One process: the plan (`decision.drafting`), the trial at the unit (`learning.numerics.curve`), training, averaging and
measuring, keeping or rolling back and what follows (`decision.keeping`, `decision.hyperparameters`) are the product's;
the network between sites is left out, and its seconds are virtual: a visit takes what `decision.drafting` expects of a
machine and a line of that speed, times a factor that every site has of its own and one that every visit has, which the
plan does not know. So a run does not depend on the machine that plays it.

A scenario is a data set (scikit-learn's own, and made ones), a split over sites, a model, a method and a seed. Each
site gives a share of its records to the verification unit, which tries the model on them before the run and measures it
with them during the run, as in the network. A run aims at perfect accuracy and so goes on to its last visit.

Legend: N records, D numbers of one, S sites.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.payloads import layout_of, load_weights, store_weights
from daitn.artifacts.manifest import TravellingState
from daitn.base.ids import ArtifactId, DataSetId, NodeId, OperatorId
from daitn.decision.costs import HOP_S, WARM_S, verification_seconds, visit_seconds
from daitn.decision.drafting import draft_plan
from daitn.decision.facts import PackageFacts, Preflight
from daitn.decision.hyperparameters import after_kept, after_rollback
from daitn.decision.keeping import judge_model, score
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.descriptors.contract import CategoryColumn, Classification, DataContract, VectorColumn, VectorInput
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import Hyperparameters, Request, parse_target
from daitn.descriptors.view import AggregatorSite, Candidate, TrainingView, Verifier
from daitn.descriptors.work import Measurement
from daitn.learning.methods import METHODS
from daitn.learning.methods.sequential import Sequential
from daitn.learning.numerics.aggregate import Update, average, merge_states, plan_average
from daitn.learning.numerics.curve import learning_curve
from daitn.learning.numerics.evaluate import evaluate, preflight
from daitn.learning.numerics.sources import MemorySlice
from daitn.learning.numerics.train import ModelState, Seeds, train
from daitn.learning.tasks.classification import ClassificationNumerics
from daitn.learning.tasks.contract import RecordSlice, RecordsLike

METRICS: Final = ("accuracy", "balanced_accuracy", "loss")
VISITS_MOST: Final = {"routed": 48, "cyclic": 48, "fedavg": 96}
"""Visits of a run: every method has levelled out by then, or shows that it does not."""
RECORDS_MOST: Final = 1500
"""Records of a scenario at most."""
ASSESSED_S: Final = WARM_S + 2.0
"""Seconds from submission to the first order: samples, a child at the unit, and the trial."""
UNIT_FLOPS: Final = 1e10
TRIAL_S: Final = 120.0
"""Seconds that the trial may take: more than it needs, so that it is the same on every machine."""
PARTS_BYTES: Final = 2000

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Drawn = tuple[NDArray[np.float64], Labels]


def _bundled(name: str) -> Callable[[int], Drawn]:
    def load(_: int) -> Drawn:
        from sklearn import datasets

        found = getattr(datasets, f"load_{name}")(return_X_y=True)
        return found[0], found[1].astype(np.int64)

    return load


def _made(kind: str, **settings: float | int) -> Callable[[int], Drawn]:
    def make(seed: int) -> Drawn:
        from sklearn import datasets

        made = getattr(datasets, kind)(random_state=seed, **settings)
        return made[0], np.unique(made[1], return_inverse=True)[1].astype(np.int64)

    return make


SOURCES: Final[dict[str, Callable[[int], Drawn]]] = {
    "digits": _bundled("digits"),
    "cancer": _bundled("breast_cancer"),
    "wine": _bundled("wine"),
    "iris": _bundled("iris"),
    "easy": _made("make_classification", n_samples=1200, n_features=20, n_informative=10, n_classes=4, class_sep=2.0),
    "blurred": _made(
        "make_classification", n_samples=1500, n_features=30, n_informative=8, n_classes=5, n_clusters_per_class=1,
        flip_y=0.1,
    ),
    "noisy": _made("make_classification", n_samples=900, n_features=40, n_informative=5, flip_y=0.3),
    "many": _made(
        "make_classification", n_samples=1500, n_features=24, n_informative=16, n_classes=8, class_sep=1.5
    ),
    "rings": _made("make_gaussian_quantiles", n_samples=1200, n_features=6, n_classes=3),
    "moons": _made("make_moons", n_samples=600, noise=0.25),
}  # fmt: skip
"""Data sets by name: how N × D numbers and N labels are made from a seed."""
MODELS: Final[dict[str, tuple[int, ...]]] = {"linear": (), "small": (16,), "wide": (128,), "deep": (48, 48)}
"""Widths of hidden layers."""
SPLITS: Final[dict[str, tuple[int, float]]] = {
    "3-alike": (3, 100.0), "5-apart": (5, 0.3), "8-mixed": (8, 1.0), "4-disjoint": (4, 0.05), "6-mixed": (6, 1.0),
}  # fmt: skip
"""Sites, and how alike their label mixes are (the parameter of a Dirichlet distribution)."""
METHOD_NAMES: Final = ("routed", "cyclic", "fedavg")
PER_SOURCE: Final = 14


@dataclass(frozen=True)
class Scenario:
    """One thing to run."""

    source: str
    split: str
    model: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """All of it, for a cell."""
        return f"{self.source}/{self.split}/{self.model}/{self.method}/{self.seed}"


def scenarios() -> tuple[Scenario, ...]:
    """`PER_SOURCE` of each source: every method as often, splits and models drawn."""
    found: list[Scenario] = []
    for source in SOURCES:
        rng = random.Random(f"admission/{source}")
        for number in range(PER_SOURCE):
            method = METHOD_NAMES[number % len(METHOD_NAMES)]
            found.append(Scenario(source, rng.choice(list(SPLITS)), rng.choice(list(MODELS)), method, number))
    return tuple(found)


class Net(nn.Module):
    """Layers of these widths with rectifiers between them."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], labels: int) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], labels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) of records (B, D)."""
        logits: Tensor = self.layers(x)
        return logits


@dataclass(frozen=True)
class Site:
    """What one site trains on, what it gives to the unit, and how much slower or faster it is than it says."""

    dataset: DataSetId
    train: MemorySlice
    sample: RecordSlice
    labels: dict[str, float]
    flops: float
    bytes_per_s: float
    pace: float


@dataclass(frozen=True)
class World:
    """Everything that a run of a scenario needs."""

    contract: DataContract
    sites: dict[DataSetId, Site]
    model: nn.Module
    view: TrainingView
    request: Request
    package: PackageFacts

    @property
    def task(self) -> ClassificationNumerics:
        """Loss and figures."""
        assert isinstance(self.contract.task, Classification)
        return ClassificationNumerics(self.contract.task, self.contract, torch.device("cpu"))

    @property
    def samples(self) -> list[RecordsLike]:
        """The unit's test set."""
        return [site.sample for site in self.sites.values()]

    def measure(self, model: nn.Module) -> tuple[Measurement, ...]:
        """What the unit finds."""
        return evaluate(model, self.task, self.samples, METRICS)


def make_world(scenario: Scenario) -> World:
    """Data split over sites, a model with the weights of its seed, and what the centre sees of it."""
    numbers, labels = SOURCES[scenario.source](scenario.seed)
    rng = np.random.default_rng([scenario.seed, len(scenario.name), *scenario.name.encode()])
    chosen = rng.permutation(len(labels))[:RECORDS_MOST]
    scale = numbers.std(axis=0)
    x = ((numbers - numbers.mean(axis=0)) / np.where(scale > 0, scale, 1.0)).astype(np.float32)[chosen]
    y = labels[chosen]
    names = tuple(f"label{one}" for one in range(int(labels.max()) + 1))
    contract = DataContract(
        name=scenario.source,
        columns=(VectorColumn(name="x", length=x.shape[1]), CategoryColumn(name="y", values=names)),
        inputs=(VectorInput(name="x", column="x"),),
        task=Classification(label="y"),
    )
    count, alike = SPLITS[scenario.split]
    given_frac = 0.45 if len(y) < 300 else 0.25
    sites = {
        site.dataset: site
        for number, rows in enumerate(_split(y, count, alike, rng))
        if len(rows) >= 4
        for site in [_make_site(number, x[rows], y[rows], names, given_frac, rng)]
    }
    torch.manual_seed(scenario.seed)
    model = Net(x.shape[1], MODELS[scenario.model], len(names))
    package = PackageFacts(
        contract=contract,
        kind="graph",
        signer="signer",
        payload_bytes=layout_of(model).payload_bytes,
        parts_bytes=PARTS_BYTES,
    )
    request = Request(
        name=scenario.source,
        package=ArtifactId("0" * 64),
        purpose="care",
        targets=(parse_target("accuracy >= 1"),),
        deadline_s=3600.0,
        method=scenario.method,
        seed=scenario.seed,
        hyperparameters=Hyperparameters(),
    )
    view = _make_view(tuple(sites.values()))
    # What is stored was run with visits as long everywhere as the rules make them at a typical site: that is pinned.
    pinned = Hyperparameters(batches_per_visit=draft_plan(view, request, package, None).training.batches)
    request = msgspec.structs.replace(request, hyperparameters=pinned)
    return World(contract, sites, model, view, request, package)


def _split(y: Labels, count: int, alike: float, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Rows of each site: of every label, shares drawn from a Dirichlet distribution."""
    rows: list[list[int]] = [[] for _ in range(count)]
    for label in np.unique(y):
        own = rng.permutation(np.flatnonzero(y == label))
        ends = np.round(np.cumsum(rng.dirichlet([alike] * count)) * len(own)).astype(int)
        for place, part in enumerate(np.split(own, ends[:-1])):
            rows[place].extend(part.tolist())
    return [np.array(sorted(one), dtype=np.int64) for one in rows]


def _make_site(
    number: int, x: Floats, y: Labels, names: tuple[str, ...], given_frac: float, rng: np.random.Generator
) -> Site:
    order = rng.permutation(len(y))
    given, kept = np.split(order, [max(1, round(given_frac * len(y)))])
    dataset = DataSetId(f"site{number}/{names[0]}")

    def part(rows: NDArray[np.int64]) -> RecordSlice:
        return RecordSlice({"x": x[rows]}, y[rows], np.zeros((len(rows), 0), np.bool_), dataset)

    counts = {names[label]: float(n) for label, n in zip(*np.unique(y[kept], return_counts=True), strict=True)}
    return Site(
        dataset=dataset,
        train=MemorySlice(dataset, part(kept)),
        sample=part(given),
        labels=counts,
        flops=float(10 ** rng.uniform(9.5, 10.5)),
        bytes_per_s=float(10 ** rng.uniform(5, 7)),
        pace=float(np.exp(rng.normal(0, 0.2))),
    )


def _make_view(sites: tuple[Site, ...]) -> TrainingView:
    candidates = tuple(
        Candidate(
            dataset=site.dataset, data_node=NodeId(site.dataset.split("/")[0]),
            compute_node=NodeId(site.dataset.split("/")[0]), streamed=False, records=float(len(site.train)),
            groups=float(len(site.train)), labels=site.labels, fields={}, record_bytes=100.0, relevance={},
            flops=site.flops, memory_bytes=8e9, slots=1, batch_s=None, bytes_per_s=site.bytes_per_s, latency_s=0.01,
            trust=1.0, availability=1.0, age_s=0.0,
        )
        for site in sites
    )  # fmt: skip
    unit = Verifier(
        node=NodeId("unit"), operator=OperatorId("trust"), datasets=tuple(site.dataset for site in sites),
        sample_records=float(sum(len(site.sample.labels) for site in sites if site.sample.labels is not None)),
        sample_fields={}, evaluations_left=10_000, flops=UNIT_FLOPS, bytes_per_s=1e7,
    )  # fmt: skip
    mixer = AggregatorSite(node=NodeId("mixer"), bytes_per_s=1e7)
    return TrainingView(
        version=1, made_at_ns=0, candidates=candidates, excluded=(), verifiers=(unit,), aggregators=(mixer,)
    )


def batch_seconds(package: PackageFacts, batch_size: int, flops: float) -> float:
    """Virtual seconds of a step: 2 ms of overhead on an ordinary machine, and ten times its plain arithmetic."""
    return (2e7 + 60 * package.payload_bytes / 4 * batch_size) / flops


def try_model(world: World) -> Preflight:
    """What the unit finds before any visit."""
    model = copy.deepcopy(world.model)
    plan = draft_plan(world.view, world.request, world.package, None)
    learnt = preflight(model, world.task, world.samples)
    curve = learning_curve(model, world.task, world.samples, METRICS, plan.training, seconds=TRIAL_S)
    found = world.measure(world.model)
    return Preflight(
        measurements=found,
        overfits=learnt.overfits,
        batch_seconds=batch_seconds(world.package, plan.training.batch_size, UNIT_FLOPS),
        unit_flops=UNIT_FLOPS,
        evaluate_seconds=0.05,
        test_records=found[0].records,
        curve=curve,
    )


class Moment(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A run as it was after a visit or a round: visits and bytes so far, those of measuring it included as the network
    counts them, seconds since submission, and figures in the order of `METRICS`."""

    visits: int
    seconds: float
    transfer_bytes: int
    due: bool
    """Whether the plan has the model measured here. Elsewhere only the harness looks: a budget could end here, which
    has a model measured at its end."""
    figures: tuple[float, ...]


def assessed_bytes(package: PackageFacts) -> int:
    """What has moved before the verdict: the unit fetched the package to try it."""
    return package.total_bytes


class _Run:
    """The state of a run: the model, what travels with it, and what it cost."""

    def __init__(self, world: World, found: Preflight, seed: int) -> None:
        self.world, self.found = world, found
        self.plan: Plan = draft_plan(world.view, world.request, world.package, found)
        self.model = copy.deepcopy(world.model)
        self.state = ModelState()
        self.seen = Seen(seed=seed)
        self.visits, self.transfer_bytes, self.seconds = 0, assessed_bytes(world.package), ASSESSED_S
        self.warm: set[DataSetId] = set()
        self.rng = np.random.default_rng(seed)

    def visit(self, site: Site, model: nn.Module, state: ModelState) -> tuple[ModelState, float]:
        """Train at a site: what travels on, and the seconds it took."""
        seeds = Seeds(job=self.seen.seed, visit=self.seen.seed)
        training = self.plan.training
        carried = sum(slot.numel() * slot.element_size() for slot in state.slots.values())
        result = train(model, self.world.task, site.train, training, state, seeds=seeds)
        candidate = next(one for one in self.world.view.candidates if one.dataset == site.dataset)
        moved = self.world.package.payload_bytes + carried
        moved += self.world.package.parts_bytes if site.dataset not in self.warm else 0
        spent = visit_seconds(candidate, training.batches, moved, self.found)
        spent *= site.pace * float(np.exp(self.rng.normal(0, 0.15)))
        spent += WARM_S if site.dataset not in self.warm else 0.0
        self.warm.add(site.dataset)
        self.visits += 1
        self.transfer_bytes += moved
        return result.state, spent

    def measuring_bytes(self) -> int:
        """What the unit fetches to measure the model: its weights with what travels with them."""
        carried = sum(slot.numel() * slot.element_size() for slot in self.state.slots.values())
        return self.world.package.payload_bytes + carried

    def round(self) -> None:
        """One visit of a sequential method, one round of an averaging one."""
        kind = METHODS[self.plan.method]
        records = self.plan.training.batches * self.plan.training.batch_size
        if isinstance(kind, Sequential):
            stop = RULES[kind.rule].next_stop(self.world.view, self.seen, records)
            if stop is None:
                raise SystemExit(f"rule {kind.rule} finds no stop")
            self.state, spent = self.visit(self.world.sites[stop.dataset], self.model, self.state)
            self.seconds += spent
            self.seen = Seen(visits=(*self.seen.visits, (stop.dataset, records)), seed=self.seen.seed)
            return
        layout = layout_of(self.model)
        payload = bytearray(layout.payload_bytes)
        store_weights(self.model, layout, payload)
        updates: list[Update] = []
        states: list[TravellingState] = []
        slowest = 0.0
        for dataset, site in self.world.sites.items():
            load_weights(self.model, layout, payload)
            state, spent = self.visit(site, self.model, ModelState(self.state.travelling))
            slowest = max(slowest, spent)
            states.append(state.travelling)
            own = bytearray(layout.payload_bytes)
            store_weights(self.model, layout, own)
            updates.append(Update(dataset, float(len(site.train)), layout.entries, memoryview(own), state.travelling))
            self.transfer_bytes += layout.payload_bytes
        average(updates, plan_average(updates), memoryview(payload))
        load_weights(self.model, layout, payload)
        self.state = ModelState(merge_states(states))
        self.seconds += slowest + HOP_S


def play(world: World, found: Preflight, seed: int) -> Iterator[Moment]:
    """A run to its last visit, after every one; the first moment is that of the submitted model."""
    run = _Run(world, found, seed)
    targets, rate = world.request.targets, run.plan.training.learning_rate
    kept, best = found.measurements, score(targets, found.measurements)
    safe = (copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.state), run.seen)
    check_s = verification_seconds(world.package, found, world.view.verifiers[0].bytes_per_s)
    yield _moment(run, kept, due=True)
    since = 0
    while run.visits < VISITS_MOST[run.plan.method]:
        run.round()
        since += 1
        measured = world.measure(run.model)
        if since < run.plan.verify_every:
            yield _moment(run, measured, due=False, measuring_bytes=run.measuring_bytes())
            continue
        since = 0
        run.seconds += check_s
        run.transfer_bytes += run.measuring_bytes()
        judged = judge_model(targets, kept, best, measured)
        if judged.keep:
            kept, best = measured, max(best, judged.score)
            safe = (copy.deepcopy(run.model.state_dict()), copy.deepcopy(run.state), run.seen)
            eased = after_kept(run.plan, world.request.hyperparameters, rate)
            run.plan = eased[0] if eased is not None else run.plan
        else:
            run.model.load_state_dict(safe[0])
            run.state, run.seen = copy.deepcopy(safe[1]), safe[2]
            run.plan, _ = after_rollback(run.plan, world.request.hyperparameters)
        yield _moment(run, measured, due=True)


def _moment(run: _Run, measured: tuple[Measurement, ...], *, due: bool, measuring_bytes: int = 0) -> Moment:
    return Moment(
        visits=run.visits,
        seconds=round(run.seconds, 2),
        transfer_bytes=run.transfer_bytes + measuring_bytes,
        due=due,
        figures=tuple(round(one.value, 4) for one in measured),
    )


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A scenario that was run: what the unit found, the run, and a hash of the files that made it."""

    found: Preflight
    moments: tuple[Moment, ...]
    source: str


def run_scenario(scenario: Scenario, source: str) -> Cell:
    """Try the model, and run. Cost: 2 to 10 s of a core."""
    world = make_world(scenario)
    found = try_model(world)
    return Cell(found=found, moments=tuple(play(world, found, scenario.seed)), source=source)
