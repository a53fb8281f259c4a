"""What the inference network speaks of: models that are served, hosts that serve them, and what is asked of both.

Paper II-B: a model provider gives a trained model to the network with a goal, model hosts (MDFP) carry replicas of it,
and gateways bring queries to them. A *model* here is a package under a name; a *replica* is that model on one host; a
*query* is some rows of named tensors. All times are seconds in a goal, nanoseconds where something was measured.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.descriptors.contract import Name
from daitn.descriptors.grant import Holder
from daitn.descriptors.host_policy import Bytes, HostPolicy, Licence
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.latency import LatencyShown
from daitn.descriptors.live import LiveShown
from daitn.descriptors.request import Target, parse_target
from daitn.descriptors.stages import Stage
from daitn.descriptors.tariff import SECONDS_PER_HOUR, Price, Tariff
from daitn.descriptors.texts import TextTask
from daitn.descriptors.versions import Canary, CanaryShown, RetrainingShown

Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Rows = Annotated[int, msgspec.Meta(ge=1, le=limits.QUERY_ROWS)]

DATATYPES: Final[dict[str, str]] = {
    "BOOL": "bool", "UINT8": "uint8", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
"""Names of the Open Inference Protocol for element types, and ours. Those that have no portable form in JSON or numpy
(BF16, BYTES) are not served."""

Datatype = Literal["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]

VARIES: Final = -1
"""In a shape: of any size."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A named input or output of a model. The first dimension counts rows; `VARIES` where a size is not fixed."""

    name: Name
    datatype: Datatype
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=-1, le=2**31)], ...], msgspec.Meta(max_length=8)]


class NamedTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A named tensor of a query or its answer: row-major, little-endian."""

    name: Name
    datatype: Datatype
    shape: Annotated[tuple[Annotated[int, msgspec.Meta(ge=0, le=2**31)], ...], msgspec.Meta(max_length=8)]
    data: bytes


class EngineKind(StrEnum):
    """What can run a model at a host."""

    TORCH_GRAPH = "torch-graph"
    """A package's graph, rebuilt from its closed format in a sandboxed child."""
    ONNX_GRAPH = "onnx-graph"
    """The same, exported in the child and computed by ONNX Runtime: quicker answers, slower to start."""
    SIMULATED = "simulated"
    """A language model that computes nothing; only of models that a host offers by itself."""
    TEXT_SERVER = "openai"
    """Another server behind OpenAI's interface; as above."""
    TRANSFORMERS = "transformers"
    """A folder with a model of texts, in a sandboxed child; as above."""
    TENSOR_SERVER = "inference-server"
    """Another server behind the Open Inference Protocol; as above."""


GRAPH_ENGINES: Final = (EngineKind.TORCH_GRAPH, EngineKind.ONNX_GRAPH)
"""What runs packages; all others are of models that hosts offer by themselves."""

ENGINES_FOR: Final[dict[str, tuple[EngineKind, ...]]] = {"graph": GRAPH_ENGINES}
"""By the kind of a package: the engines that serve it."""


# --- what a provider wants --------------------------------------------------------------------------------------------


class LatencyTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of all queries this share (`quantile`) is answered within `most_s`, from gateway to answer."""

    quantile: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    most_s: Annotated[float, msgspec.Meta(gt=0, le=3600)]

    def __str__(self) -> str:
        return f"p{self.quantile * 100:g} <= {self.most_s * 1000:g} ms"


class ServingGoal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider asks of the network for one model."""

    latency: Annotated[tuple[LatencyTarget, ...], msgspec.Meta(max_length=4)] = ()
    quality: Annotated[tuple[Target, ...], msgspec.Meta(max_length=8)] = ()
    """Figures that a verification unit must have measured of this very model."""
    replicas_least: Annotated[int, msgspec.Meta(ge=0, le=limits.HOSTS_PER_MODEL)] = 1
    """With 0, none is kept while nobody asks, and one is started for the next query."""
    replicas_most: Annotated[int, msgspec.Meta(ge=1, le=limits.HOSTS_PER_MODEL)] = 2
    regions: Annotated[tuple[Name, ...], msgspec.Meta(max_length=8)] = ()
    """Where its weights may lie; empty: anywhere."""
    operators: Annotated[tuple[Name, ...], msgspec.Meta(max_length=limits.ZONE_OPERATORS)] = ()
    """At whose hosts its weights may lie; empty: at anyone's."""
    idle_s: Annotated[float, msgspec.Meta(ge=1, le=1e6)] = 300.0
    """With `replicas_least` 0: after so long without a query the last replica is let go."""

    def __str__(self) -> str:
        regions = [f"region {name}" for name in self.regions]
        counts = [f">= {self.replicas_least} replicas", f"<= {self.replicas_most} replicas"]
        regions += [f"operator {name}" for name in self.operators]
        idle = [f"idle {self.idle_s:g} s"] if self.replicas_least == 0 else []
        return ", ".join([*map(str, self.latency), *map(str, self.quality), *counts, *regions, *idle])


_LATENCY = re.compile(
    r"p(?P<percent>\d{1,2}(?:\.\d{1,3})?)\s*(?:<=|≤|<)\s*(?P<value>\d{1,9}(?:\.\d{1,9})?)\s*(?P<unit>ms|s)"
)
_REPLICAS = re.compile(r"(?P<sense><=|>=|≤|≥|=)\s*(?P<count>\d{1,4})\s*(?:replicas?|copies)")
_WHERE = re.compile(r"(?P<kind>region|operator)\s*=?\s*(?P<name>[^\s,](?:[^,]{0,254}[^\s,])?)")
_IDLE = re.compile(r"idle\s*=?\s*(?P<value>\d{1,9}(?:\.\d{1,9})?)\s*s")
GOAL_CHARS: Final = 4096
"""Longest text of a goal."""


def parse_goal(text: str) -> ServingGoal:
    """`p95 <= 50 ms, accuracy@cardiology >= 0.9, >= 2 replicas, <= 3 replicas, region north, operator clinic`;
    InputError where a part cannot be read, or parts contradict each other."""
    if len(text) > GOAL_CHARS:
        raise InputError(f"the goal has {len(text)} characters, the limit is {GOAL_CHARS}", todo="say less")
    latency: list[LatencyTarget] = []
    quality: list[Target] = []
    regions: list[str] = []
    operators: list[str] = []
    least, most, idle_s = None, None, 300.0
    for part in (one.strip() for one in text.split(",") if one.strip()):
        if (found := _LATENCY.fullmatch(part)) is not None:
            quantile, value = float(found["percent"]) / 100, float(found["value"])
            most_s = value / 1000 if found["unit"] == "ms" else value
            if not 0 < quantile < 1 or not 0 < most_s <= 3600:
                raise InputError(f"goal {part!r}: a quantile lies within p0 and p100, a time within 0 and 3600 s")
            latency.append(LatencyTarget(quantile=quantile, most_s=most_s))
        elif (found := _REPLICAS.fullmatch(part)) is not None:
            count = int(found["count"])
            least = count if found["sense"] in (">=", "≥", "=") else least
            most = count if found["sense"] in ("<=", "≤", "=") else most
        elif (found := _WHERE.fullmatch(part)) is not None:
            (regions if found["kind"] == "region" else operators).append(found["name"])
        elif (found := _IDLE.fullmatch(part)) is not None:
            idle_s = float(found["value"])
        else:
            quality.append(parse_target(part))
    least = 1 if least is None else least
    most = max(least, 2) if most is None else most
    return check_goal(
        ServingGoal(
            latency=tuple(latency),
            quality=tuple(quality),
            replicas_least=least,
            replicas_most=most,
            regions=tuple(regions),
            operators=tuple(operators),
            idle_s=idle_s,
        )
    )


def check_goal(goal: ServingGoal) -> ServingGoal:
    """The goal, if it holds together; InputError listing every fault."""
    faults: list[str] = []
    if not 0 <= goal.replicas_least <= goal.replicas_most <= limits.HOSTS_PER_MODEL or goal.replicas_most < 1:
        faults.append(
            f"at least {goal.replicas_least} and at most {goal.replicas_most} replicas; the first is from 0, the "
            f"second from 1 to {limits.HOSTS_PER_MODEL} and not below the first"
        )
    if not 1 <= goal.idle_s <= 1e6:
        faults.append(f"idle {goal.idle_s:g} s; it is from 1 to 1,000,000 s")
    for what, found, most in (
        ("latencies", len(goal.latency), 4),
        ("figures", len(goal.quality), 8),
        ("regions", len(goal.regions), 8),
        ("operators", len(goal.operators), limits.ZONE_OPERATORS),
    ):
        faults += [f"{found} {what}, the limit is {most}"] if found > most else []
    faults += [f"{target}: the value is not finite" for target in goal.quality if not math.isfinite(target.value)]
    if faults:
        raise InputError("the goal is not consistent: " + "; ".join(faults), todo="correct it and deploy again")
    return goal


# --- what a host offers -----------------------------------------------------------------------------------------------


class HostDescriptor(msgspec.Struct, frozen=True, kw_only=True):
    """What a model host (MDFP) offers."""

    engines: Annotated[tuple[EngineKind, ...], msgspec.Meta(min_length=1, max_length=16)]
    memory_bytes: Bytes
    """For all models together."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    """Batches of one model that run at a time."""
    policy: HostPolicy = HostPolicy()
    tariff: Tariff = Tariff()
    """What its operator charges; of queries, the hours of a slot."""


class ModelNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What a package demands of a host, read from its manifest and graph."""

    kind: Literal["graph"]
    payload_bytes: Bytes
    memory_bytes: Bytes
    """In use while it serves; an upper estimate before it was loaded anywhere."""
    signer: str
    licence: Licence = ""
    """Under which its provider gives it, as SPDX names it; empty: not stated."""
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    stage: Stage | None = None
    """Which stage of the package's model it is; None: the whole."""


# --- what is where ----------------------------------------------------------------------------------------------------


class ReplicaPhase(StrEnum):
    """Where a replica is in its life at its host."""

    FETCHING = "fetching"
    WARMING = "warming"
    SERVING = "serving"
    FAILED = "failed"


class ReplicaMeasured(msgspec.Struct, frozen=True, kw_only=True):
    """What a host measured of a replica while it warmed it up."""

    engine: EngineKind = EngineKind.TORCH_GRAPH
    """What runs it."""
    memory_bytes: Bytes = 0
    row_s: Seconds = 0.0
    """One query of one row alone, in the engine."""
    batch_rows: Rows = 1
    batch_s: Seconds = 0.0
    """A batch of `batch_rows` rows, in the engine."""


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A model on one host, as the host says."""

    model: ModelName
    artifact: ArtifactId
    phase: ReplicaPhase
    why: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    """Where it failed."""
    tasks: Annotated[tuple[TextTask, ...], msgspec.Meta(max_length=8)] = ()
    """What it does with text; empty for a model of tensors."""
    concurrency: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    """Queries that it takes at a time; 0: as its host says of all."""
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    measured: ReplicaMeasured = ReplicaMeasured()


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that queries may be sent to, as a gateway is told."""

    host: Holder
    region: str = ""
    operator: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS)] = ""
    """Who runs it, as its enrolment proves."""
    price_per_hour: Price | None = None
    """Of one slot; None: its operator states none, which is not free."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    path_s: Seconds | None = None
    """Round trip from the gateway, where the map knows it."""
    measured: ReplicaMeasured = ReplicaMeasured()

    @property
    def prices(self) -> tuple[float, float] | None:
        """What a query is priced at: a base, and each of its units (rows, texts, tokens of an answer); None where no
        price is stated. By what the host measured when it warmed up, so that it is the same whoever asks, and when."""
        if self.price_per_hour is None:
            return None
        each_s = max(0.0, self.measured.batch_s - self.measured.row_s) / max(1, self.measured.batch_rows - 1)
        per_s = self.price_per_hour / SECONDS_PER_HOUR
        return max(0.0, self.measured.row_s - each_s) * per_s, each_s * per_s

    def price_of(self, units: int) -> float | None:
        """The price of a query of so many units; None where none is stated."""
        prices = self.prices
        return None if prices is None else prices[0] + prices[1] * units


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that queries may ask, and where."""

    model: ModelName
    artifact: ArtifactId
    owner: OwnerId
    goal: ServingGoal
    inputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    outputs: Annotated[tuple[TensorSpec, ...], msgspec.Meta(max_length=limits.TENSORS_PER_QUERY)] = ()
    tasks: Annotated[tuple[TextTask, ...], msgspec.Meta(max_length=8)] = ()
    """What it does with text; empty for a model of tensors."""
    quality: dict[str, float] = {}
    """What verification units measured of it, by `metric[label]@field`."""
    stage: Stage | None = None
    """Which stage of a model it is; None: a whole one."""
    canary: Canary | None = None
    """Of which model it is a new version; None: of none."""
    temperature: Annotated[float, msgspec.Meta(gt=0, le=64)] = 1.0
    """By which its scores are divided where it counts how sure an answer is, as judged answers have it."""
    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5
    """Share of the second of two classes from which that one is told, as judged answers have it."""
    routes: Annotated[tuple[Route, ...], msgspec.Meta(max_length=limits.HOSTS_PER_MODEL)] = ()
    referee: Route | None = None
    """A verification unit that compared queries are asked of while hosts differ, where the query's goal allows it."""

    @property
    def is_listed(self) -> bool:
        """Whether users are shown it: not a stage, which answers nothing alone, and not a version on trial."""
        return self.stage is None and self.canary is None


# --- what a query wants -----------------------------------------------------------------------------------------------


class QueryGoal(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one query beyond its answer. None: not asked for."""

    deadline_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] | None = None
    """From its arrival at the gateway."""
    quality_least: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Accuracy, as measured by a verification unit, in `field` where one is named."""
    field: str = ""
    region: str = ""
    """Hosts of this region only; empty: any."""
    zone: Annotated[tuple[str, ...], msgspec.Meta(max_length=limits.ZONE_OPERATORS)] = ()
    """The trust zone: hosts of these operators only; empty: any."""
    price_most: Price | None = None
    """In the domain's unit of account. Hosts that state no price are none that keep it."""


# --- states for people ------------------------------------------------------------------------------------------------


class ModelPhase(StrEnum):
    """Where a deployed model is."""

    REFUSED = "refused"
    PLACING = "placing"
    """No replica answers yet."""
    SERVING = "serving"
    IDLE = "idle"
    """Nobody asks it: no replica is kept, and one is started for the next query."""
    SHORT = "short"
    """It is served by fewer replicas than its provider wants."""
    WITHDRAWN = "withdrawn"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that may ask models, as a gateway knows it: a digest, never the secret."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    owner: OwnerId
    expires_unix_s: Annotated[float, msgspec.Meta(ge=0, le=1e12)]
    terms: KeyTerms = KeyTerms()


class ReplicaShown(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as its provider sees it."""

    node: NodeId
    name: str
    phase: str
    reachable: bool
    why: str = ""
    because: str = ""
    """Why it was placed there, or leaves."""
    stage: int = 0
    """Which stage of the model it computes; 0: all of it."""
    measured: ReplicaMeasured = ReplicaMeasured()


class ModelStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A deployed model as its provider sees it."""

    model: ModelName
    owner: OwnerId
    artifact: ArtifactId
    phase: ModelPhase
    goal: ServingGoal
    reasons: tuple[str, ...] = ()
    """All failed conditions, each with what is required and what there is."""
    replicas: tuple[ReplicaShown, ...] = ()
    stages: int = 0
    """How many the model is served in; 0: whole."""
    live: LiveShown = LiveShown()
    """How it does while it is asked."""
    latency: tuple[LatencyShown, ...] = ()
    """Of each latency that the goal names, what it is."""
    canary: CanaryShown | None = None
    """A new version that is tried beside it."""
    versions: tuple[str, ...] = ()
    """What became of new versions that were tried, the newest last."""
    retraining: RetrainingShown | None = None
    """Training that begins by itself; None: its provider has not agreed to any."""
    replacements: int = 0
    """Replicas that were placed anew because a host was lost or failed."""
    deployed_unix_s: float = 0.0
