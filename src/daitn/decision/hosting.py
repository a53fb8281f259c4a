"""Admission of a model to hosts (MDO, paper II-B), as a pure function.

`admit` lists *all* conditions that a model, its goal and the hosts there are make together, met or not, and the hosts
that may have a replica: what is feasible. Which of those get one is decided by `decision.model_placement`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec

from daitn.base.ids import NodeId, OwnerId
from daitn.descriptors.serving import HostDescriptor, ModelNeeds, ServingGoal


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """A host as admission sees it."""

    node: NodeId
    name: str
    region: str
    operator: str
    """Who runs it, as its enrolment proves."""
    offered: HostDescriptor
    memory_left_bytes: int
    """Beside the models it has been given."""
    reachable: bool = True
    path_s: float | None = None
    """Round trip from the gateway that is nearest to it; None: not known yet."""


class HostCondition(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was checked: what is required, and what there is."""

    code: str
    required: str
    available: str
    met: bool

    def __str__(self) -> str:
        return f"{self.code}: required {self.required}, available {self.available}"


class HostAdmission(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a model may be served, why not, and by whom."""

    conditions: tuple[HostCondition, ...]
    candidates: tuple[NodeId, ...]
    """Hosts that meet every condition of their own."""

    @property
    def admitted(self) -> bool:
        """Whether nothing failed."""
        return all(one.met for one in self.conditions)

    def failed(self) -> tuple[HostCondition, ...]:
        """What is in the way."""
        return tuple(one for one in self.conditions if not one.met)


def admit(
    needs: ModelNeeds,
    goal: ServingGoal,
    owner: OwnerId,
    hosts: Sequence[HostView],
    measured: Mapping[str, float],
    *,
    engines: Collection[str],
) -> HostAdmission:
    """Judge a model. `measured`: what verification units found of it, by target name; `engines`: that run its kind.

    O(hosts); each condition narrows the hosts that the next one speaks of.
    """
    conditions: list[HostCondition] = []
    left = [host for host in hosts if host.reachable]
    _say(conditions, "hosts", "a host that is reachable", f"{len(left)} of {len(hosts)}", bool(left))
    if goal.regions:
        inside = [host for host in left if host.region in goal.regions]
        there = sorted({host.region or "none" for host in left})
        _say(conditions, "region", " or ".join(goal.regions), ", ".join(there) or "none", bool(inside))
        left = inside
    if goal.operators:
        trusted = [host for host in left if host.operator in goal.operators]
        there = sorted({host.operator or "nobody" for host in left})
        _say(conditions, "operator", " or ".join(goal.operators), ", ".join(there) or "none", bool(trusted))
        left = trusted
    if goal.latency:
        within_s = min(one.most_s for one in goal.latency)
        near = [host for host in left if host.path_s is None or host.path_s <= within_s]
        ways = [host.path_s for host in left if host.path_s is not None]
        said = f"the nearest is {min(ways) * 1000:.1f} ms away" if ways else "nobody has measured how far hosts are"
        _say(conditions, "latency", f"a host within {within_s * 1000:g} ms of a gateway", said, bool(near) or not left)
        left = near
    able = [host for host in left if any(engine in engines for engine in host.offered.engines)]
    _say(conditions, "engine", " or ".join(sorted(engines)), f"{len(able)} of {len(left)} hosts have it", bool(able))
    willing: list[HostView] = []
    against: list[str] = []
    for host in able:
        faults = host.offered.policy.faults(owner, needs.signer, needs.licence, needs.payload_bytes)
        against += [f"{host.name}: {fault}" for fault in faults]
        willing += [] if faults else [host]
    _say(conditions, "policy", "a host that accepts it", "; ".join(against[:5]) or f"{len(willing)} do", bool(willing))
    fitting = [host for host in willing if host.memory_left_bytes >= needs.memory_bytes]
    most = max((host.memory_left_bytes for host in willing), default=0)
    _say(conditions, "memory", f"{needs.memory_bytes} bytes", f"{most} bytes at most", bool(fitting))
    least = max(1, goal.replicas_least)
    enough = len(fitting) >= least
    _say(conditions, "replicas", f"{least} hosts", f"{len(fitting)} can serve it", enough)
    for target in goal.quality:
        value = measured.get(target.name)
        said = "not measured by a verification unit" if value is None else f"{value:g} measured"
        _say(conditions, "quality", str(target), said, value is not None and target.met_by(value))
    return HostAdmission(conditions=tuple(conditions), candidates=tuple(host.node for host in fitting))


def _say(conditions: list[HostCondition], code: str, required: str, available: str, met: bool) -> None:
    conditions.append(HostCondition(code=code, required=required, available=available, met=met))
