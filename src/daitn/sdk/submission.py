"""Submission: from a request file and options to a job and its verdict; what the command line and scripts share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.job import JobStatus, Phase
from daitn.sdk.requests import load_spec, parse_bytes

if TYPE_CHECKING:
    from daitn.sdk.network import Network
    from daitn.sdk.pending import PendingKeys


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A job after its verdict, the job that took its counter-offer, and the one that asked for advice after it."""

    status: JobStatus
    taken: JobStatus | None = None
    advised: JobStatus | None = None
    """The same request with the catalogue's models declared, where the first was refused for what its model reaches."""
    unasked: str = ""
    """Why the catalogue could not be asked; empty: it was, or there was no reason to."""

    @property
    def last(self) -> JobStatus:
        """The job that counts: what the owner goes on with."""
        if self.taken is not None:
            return self.taken
        asked = self.advised
        return asked if asked is not None and asked.phase is not Phase.REFUSED else self.status

    def with_last(self, last: JobStatus) -> Submission:
        """The same with the newest status of the job that counts."""
        for name in ("taken", "advised"):
            one: JobStatus | None = getattr(self, name)
            if one is not None and one.job == last.job:
                return msgspec.structs.replace(self, **{name: last})
        return msgspec.structs.replace(self, status=last)


def from_options(
    spec: Path | None,
    *,
    package: Path | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    visits: int | None = None,
    transfer_bytes: str | None = None,
    price: float | None = None,
    energy_joules: float | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    variants: Sequence[Path] | None = None,
    **plain: Any,
) -> dict[str, Any]:
    """The arguments of `Network.train` from a request file, overridden by options. InputError listing what lacks."""
    wanted = load_spec(spec) if spec is not None else {}
    if "package" in wanted and spec is not None:
        wanted["package"] = spec.parent / str(wanted["package"])
    if package is not None:
        wanted["package"] = package
    if spec is not None and "variants" in wanted:
        wanted["variants"] = [spec.parent / str(one) for one in wanted["variants"]]
    if variants:
        wanted["variants"] = list(variants)
    wanted |= {name: value for name, value in plain.items() if value is not None}
    _merge(wanted, "data", {"include": include, "exclude": exclude})
    bounds = {"visits": visits, "transfer_bytes": transfer_bytes, "price": price, "energy_joules": energy_joules}
    _merge(wanted, "budget", bounds)
    _merge(wanted, "hyperparameters", {"learning_rate": learning_rate, "batch_size": batch_size})
    lacking = [name for name in ("package", "targets", "deadline", "purpose") if not wanted.get(name)]
    if lacking:
        options = {"package": "--package", "targets": "--target", "deadline": "--deadline", "purpose": "--purpose"}
        raise InputError(
            f"the request lacks {', '.join(lacking)}",
            todo=f"give {', '.join(options[name] for name in lacking)}, or write it into the request file",
        )
    wanted["model"] = Path(wanted.pop("package"))
    return wanted


def changes_from_options(
    *,
    targets: Sequence[str] | None = None,
    deadline: str | None = None,
    visits: int | None = None,
    transfer_bytes: str | None = None,
    price: float | None = None,
    energy_joules: float | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    exclude_nodes: Sequence[str] | None = None,
    priority: int | None = None,
) -> dict[str, Any]:
    """The arguments of `Job.change` from options; what was not given is not changed."""
    changes: dict[str, Any] = {}
    if targets:
        changes["targets"] = list(targets)
    if deadline is not None:
        changes["deadline"] = deadline
    if priority is not None:
        changes["priority"] = priority
    bound = None if transfer_bytes is None else parse_bytes(transfer_bytes)
    bounds = {"visits": visits, "transfer_bytes": bound, "price": price, "energy_joules": energy_joules}
    _merge(changes, "budget", bounds)
    _merge(changes, "hyperparameters", {"learning_rate": learning_rate, "batch_size": batch_size})
    _merge(changes, "data", {"include": include, "exclude": exclude, "exclude_nodes": exclude_nodes})
    return changes


def submit_and_take(
    network: Network,
    wanted: Mapping[str, Any],
    *,
    take: bool,
    pending: PendingKeys | None = None,
    ask_catalogue: bool = False,
) -> Submission:
    """Submit, wait for the verdict, and take the counter-offer of a refusal where `take` and there is one.

    `ask_catalogue`: after a refusal for what the model reaches that names no other, the catalogue is asked.
    `pending`: whence a request without a key of its own has one, so that the same again after a kill is the same job,
    unless that was cancelled or failed meanwhile.
    """
    kept = {} if pending is None else {"idempotency_key": pending.key_of}
    job = network.train(**kept | dict(wanted))
    if pending is not None and pending.found and job.status().phase in (Phase.CANCELLED, Phase.FAILED):
        pending.told()
        job = network.train(**kept | dict(wanted))
    status = job.assessed()
    verdict = status.verdict if status.phase is Phase.REFUSED else None
    if verdict is None:
        return Submission(status=status)
    offer = verdict.counter_offer
    if take and offer is not None and not offer.unmasks(status.request):
        return Submission(status=status, taken=job.take_counter_offer().assessed())
    if not ask_catalogue or verdict.advice is None or verdict.advice.named is not None:
        return Submission(status=status)
    try:
        return Submission(status=status, advised=job.ask_catalogue(key=wanted.get("key")).assessed())
    except (InputError, UnavailableError) as error:
        return Submission(status=status, unasked=str(error))


def _merge(into: dict[str, Any], name: str, values: Mapping[str, Any]) -> None:
    given = {key: value for key, value in values.items() if value is not None and value != []}
    if given:
        into[name] = {**dict(into.get(name) or {}), **given}
