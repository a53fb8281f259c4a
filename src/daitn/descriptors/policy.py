"""A data owner's policy: who may use a data set, for what, and what may leave. Default deny.

Written by hospital IT as TOML, checked at the site for each use, and published in short form (`PolicySummary`) so that
the network does not plan what the site would refuse. The site's own check is the one that counts.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from daitn.descriptors.contract import Name
from daitn.descriptors.privacy import EpsilonBound

DescriptionKind = Literal["sketch", "moments", "quantiles", "synthetic"]
"""Members of the description family (`describe.family`)."""

Frac = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a data owner allows. An empty list allows nobody, `"*"` allows everybody."""

    owners: tuple[str, ...] = ()
    """Model owners who may train."""
    purposes: tuple[str, ...] = ()
    """Purposes of use, in the words of the consortium, such as `diagnosis-support`."""
    methods: tuple[str, ...] = ("*",)
    """Training methods allowed at this data."""
    raw_records: Literal["stay", "trust-zone"] = "stay"
    """Whether records may stream to a compute site; `trust-zone`: only to `compute_operators`."""
    activations: Literal["stay", "trust-zone"] = "stay"
    """Whether what the first layers of a model make of records may be given to a compute site, and gradients be taken
    from it (split learning); `trust-zone`: only to `compute_operators`."""
    compute_operators: tuple[str, ...] = ()
    """Operators of compute sites in the trust zone."""
    sample_frac: Frac = 0.0
    """Largest share of records that may be given to a verification unit, out of the held-out groups; 0: none."""
    verification_operators: tuple[str, ...] = ()
    """Operators of verification units that may receive the sample."""
    signers: tuple[str, ...] = ()
    """Ed25519 public keys (hex) whose packages may run; empty: any package whose signature holds."""
    python_signers: tuple[str, ...] = ()
    """Ed25519 public keys (hex) of those whose Python trainers may run; empty: no foreign code at all."""
    epsilon_per_period: Annotated[float, msgspec.Meta(gt=0, le=100)] = 1.0
    """Differential-privacy budget for published statistics in one period."""
    period_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 30
    releases_per_period: Annotated[int, msgspec.Meta(ge=1, le=366)] = 2
    """How often in a period statistics are drawn anew, at most; each time costs this part of the budget, with as much
    more noise. Records that are appended in between are in the next release."""
    epsilon_per_job: EpsilonBound | None = None
    """Only training with noise, that costs this data set at most so much in a job; None: noise is not asked for."""
    training_epsilon_per_period: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None
    """What private training of all jobs may cost in one period together; None: not bounded. Beside the budget of
    published statistics, not out of it."""
    describe: tuple[DescriptionKind, ...] = ("sketch",)
    """What is said of records beyond counts; each takes its share of the budget."""
    min_count: Annotated[int, msgspec.Meta(ge=0)] = 10
    """Counts below this are published as 0."""
    newest_day: bool = False
    """Whether the day of the newest records is told, without noise: one on which, or after which, records of at least
    `min_count` groups were made. Drawn with each release."""
    records_per_group: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 8
    """Where a contract groups records (by patient, say), one group counts at most this often in published statistics:
    the noise then hides a whole group, and grows with this number."""
    replay: Literal["no", "job", "keep"] = "no"
    """Whether a few training records of each field stay at this site, to be learnt from again by methods that learn on
    (`daitn.node.replay`) after the data set has changed: until the last job that saw them has ended, or as long as the
    data set is on the shelf. They leave it as little as any record."""
    visits_per_day: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    cache_activations: Literal["job", "keep", "no"] = "job"
    """How long the activations of a frozen base stay at this site: until the last job that used them has ended, as
    long as the data is here, or not at all (then models that need a base cannot train here)."""


class PolicySummary(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a policy the network plans with."""

    owners: tuple[str, ...]
    purposes: tuple[str, ...]
    methods: tuple[str, ...]
    raw_records: Literal["stay", "trust-zone"]
    compute_operators: tuple[str, ...]
    sample_frac: Frac
    verification_operators: tuple[str, ...]
    signers: tuple[str, ...]
    cache_activations: Literal["job", "keep", "no"] = "job"
    activations: Literal["stay", "trust-zone"] = "stay"
    epsilon_per_job: EpsilonBound | None = None


class PolicyFault(msgspec.Struct, frozen=True, kw_only=True):
    """One reason why a policy refuses: which rule, what was asked, what it allows."""

    rule: str
    asked: str
    allowed: str


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """One use of a data set that somebody asks for."""

    owner: str
    purpose: Name
    method: str
    signer: str
    kind: Literal["train", "records", "sample", "split"]
    """Train at the data; stream records to `operator`'s compute site; give a sample to `operator`'s unit; train at the
    data with the middle of the model at `operator`'s compute site."""
    operator: str = ""
    epsilon: float | None = None
    """Training: what the job may cost the data set at most; None: nothing bounds it, no noise is added."""


def to_train(owner: str, purpose: Name, method: str, signer: str, epsilon: float | None) -> Use:
    """Training at the data, with noise where `epsilon` says so."""
    return Use(owner=owner, purpose=purpose, method=method, signer=signer, kind="train", epsilon=epsilon)


def allows(allowed: tuple[str, ...], asked: str) -> bool:
    """Whether a list allows a name; `"*"` allows all."""
    return "*" in allowed or asked in allowed


def check_use(policy: Policy | PolicySummary, use: Use) -> tuple[PolicyFault, ...]:
    """All rules that refuse this use; empty: allowed. O(length of the lists)."""
    faults: list[PolicyFault] = []

    def expect(rule: str, allowed: tuple[str, ...], asked: str) -> None:
        if not allows(allowed, asked):
            faults.append(PolicyFault(rule=rule, asked=asked, allowed=", ".join(allowed) or "nobody"))

    expect("owners", policy.owners, use.owner)
    expect("purposes", policy.purposes, use.purpose)
    if use.kind != "sample":
        expect("methods", policy.methods, use.method)
        if policy.signers:
            expect("signers", policy.signers, use.signer)
    if use.kind != "sample" and (most := policy.epsilon_per_job) is not None:
        asked = "training without noise" if use.epsilon is None else f"ε = {use.epsilon:g}"
        if use.kind != "train":
            asked = "what bears no noise would leave the site"
        if use.kind != "train" or use.epsilon is None or use.epsilon > most:
            faults.append(PolicyFault(rule="epsilon_per_job", asked=asked, allowed=f"training with ε at most {most:g}"))
    if use.kind == "records":
        if policy.raw_records == "stay":
            faults.append(PolicyFault(rule="raw_records", asked="stream to a compute site", allowed="stay"))
        else:
            expect("compute_operators", policy.compute_operators, use.operator)
    if use.kind == "split":
        if policy.activations == "stay":
            faults.append(PolicyFault(rule="activations", asked="give them to a compute site", allowed="stay"))
        else:
            expect("compute_operators", policy.compute_operators, use.operator)
    if use.kind == "sample":
        if policy.sample_frac <= 0:
            faults.append(PolicyFault(rule="sample_frac", asked="a sample", allowed="0"))
        expect("verification_operators", policy.verification_operators, use.operator)
    return tuple(faults)


def summarise(policy: Policy) -> PolicySummary:
    """What the network may know of a policy."""
    return PolicySummary(
        **{name: getattr(policy, name) for name in PolicySummary.__struct_fields__},
    )
