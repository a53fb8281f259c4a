"""Scenarios: a network, its jobs and its faults, as one declarative value that both worlds read.

`node` starts it as real processes (`daitn up FILE`), `simulation` runs it in virtual time. What only one of them can
use (a path of data; a learning speed) says so.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.base.errors import InputError
from daitn.descriptors.access import Access, check_access
from daitn.descriptors.compression import Compression
from daitn.descriptors.contract import Name
from daitn.descriptors.policy import Policy
from daitn.descriptors.request import CHANCE_FLOOR, parse_target
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import Role


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set of a node."""

    name: Name
    contract: str
    """Path of the contract (real world), or name of the contract (simulation)."""
    path: str = ""
    """Path of the data, relative to the scenario file; real world only."""
    column_map: str = ""
    """Path of the column map where the data's columns have other names; real world only."""
    policy: Policy
    labels: dict[str, int] = {}
    """Records per label; simulation only, the real world counts."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node that joins the domain."""

    name: Name
    operator: Name
    roles: Annotated[tuple[Role, ...], msgspec.Meta(min_length=1)]
    region: str = ""
    slots: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    direct: str = ""
    """Address under which others reach it for direct transfers; empty: through the router only. Real world only."""
    storage_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Most that its store may take; None: the node's default."""
    access: Access = Access()
    """How it reaches the network, with the windows in which it does. Planned with in both worlds; a link is cut by
    `FaultSpec.cuts`."""
    tariff: Tariff = Tariff()
    engine: str = ""
    """What runs models at a host; empty: the node's default. Real world only."""
    offers: str = ""
    """File of models that a host brings by itself; empty: none. Real world only."""
    data: tuple[DataSpec, ...] = ()
    flops: Annotated[float, msgspec.Meta(gt=0)] = 1e9
    """Simulation only; the real world measures."""
    slowness: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 1.0
    """How many times as long as at others a visit takes here; simulation only."""


CENTER_NAME: Final = "center"
"""What faults call the control centre's process."""


class CrashSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A process dies exactly here; simulation only."""

    node: Name
    """Name of a node, or `CENTER_NAME`."""
    when: Literal["before", "after"]
    effect: Name = "Append"
    """Class name of the effect that is about to be performed, or just was."""
    number: Annotated[int, msgspec.Meta(ge=1)]
    """The how-manieth effect of that kind at that process, over all its lives."""
    down_s: Annotated[float, msgspec.Meta(gt=0)] = 1.0


class CutSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node's link is cut from a moment on for a while: what it says (`up`), what it is told (`down`), or both."""

    node: Name
    at_s: Annotated[float, msgspec.Meta(ge=0)]
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    up: bool = True
    down: bool = True


class FaultSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How faulty the simulated world is; probabilities per message or per effect, seconds of virtual time."""

    loss: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    duplicate: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    delay_s: Annotated[float, msgspec.Meta(ge=0)] = 0.001
    slow: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Share of messages that take up to a hundred times `delay_s`."""
    crash: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    """Chance of a crash before or after each effect of a node."""
    restart_s: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    cuts_per_minute: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How often some node's link is cut, in one direction or both."""
    cut_s: Annotated[float, msgspec.Meta(gt=0)] = 5.0
    mishaps_per_minute: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How often something else goes wrong: a process is stopped, the router dies or stops, a disk fills, a link is
    slow, an owner looks away."""
    mishap_s: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    clock_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """How far a machine's clock may be off when a process starts."""
    poisoners: tuple[Name, ...] = ()
    """Nodes on whose data each visit, from the first on, leaves a model that has learnt nothing and never will."""
    crashes: tuple[CrashSpec, ...] = ()
    cuts: tuple[CutSpec, ...] = ()
    stop_after_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """Faults by chance cease then, so that what must end can end."""


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job of an owner."""

    owner: Name
    name: Name
    contract: str
    targets: tuple[str, ...]
    deadline_s: Annotated[float, msgspec.Meta(gt=0)]
    purpose: Name
    method: str = ""
    raw_records: Literal["stay", "trust-zone"] = "stay"
    visits: Annotated[int, msgspec.Meta(ge=1)] | None = None
    chance_floor: Annotated[float, msgspec.Meta(ge=0, le=1)] = CHANCE_FLOOR
    allow_probe: bool = False
    """Whether one site may train for a moment before a verdict that is not sure."""
    until_deadline: bool = False
    """Whether it goes on without gain."""
    secure_aggregation: bool = False
    """Whether updates are masked."""
    compression: Compression | None = None
    """How updates are made smaller; None: not at all."""
    package: str = ""
    """Directory of the model package; real world only. Without one the job is left to its owner."""
    at_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """See the module's docstring."""

    name: Name
    domain: Name = "demo"
    patience_s: Annotated[float, msgspec.Meta(ge=0.2, le=3600)] = 4.0
    nodes: Annotated[tuple[NodeSpec, ...], msgspec.Meta(min_length=1, max_length=4096)]
    jobs: tuple[JobSpec, ...] = ()
    faults: FaultSpec = FaultSpec()
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0


def check_scenario(scenario: Scenario) -> None:
    """InputError listing every fault of a scenario."""
    faults: list[str] = []
    names = [node.name for node in scenario.nodes]
    faults += [f"two nodes are called {name!r}" for name in sorted({name for name in names if names.count(name) > 1})]
    for node in scenario.nodes:
        if node.data and Role.DATA not in node.roles:
            faults.append(f"node {node.name!r} has data but not the role 'data'")
        try:
            check_access(node.access)
        except InputError as error:
            faults.append(f"node {node.name!r}: {error.what}")
        here = [data.name for data in node.data]
        if len(set(here)) != len(here):
            faults.append(f"node {node.name!r} has two data sets of one name")
    for fault in scenario.faults.crashes:
        if fault.node not in (*names, CENTER_NAME):
            faults.append(f"a crash of {fault.node!r} is planned, which is no node")
    for cut in scenario.faults.cuts:
        if cut.node not in names:
            faults.append(f"a cut of {cut.node!r} is planned, which is no node")
    for job in scenario.jobs:
        for text in job.targets:
            try:
                parse_target(text)
            except InputError as error:
                faults.append(f"job {job.name!r}: {error.what}")
    if faults:
        raise InputError(f"scenario {scenario.name!r} is not consistent: " + "; ".join(faults))
