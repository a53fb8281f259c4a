"""`daitn deploy`, `daitn models`, `daitn undeploy`: models given to the network to be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daitn.base.errors import InputError
from daitn.cli.output import Json, Token, answer, errors
from daitn.descriptors.stages import STAGES_MOST

if TYPE_CHECKING:
    from daitn.descriptors.serving import ModelStatus
    from daitn.descriptors.versions import CanaryWanted, Retraining
    from daitn.sdk.network import Network

SPLITS: Final[dict[str, bool | None]] = {"": None, "fit": True, "never": False}


def deploy(
    package: Annotated[Path, typer.Argument(help="Directory of a model package, as `daitn train fetch` makes one.")],
    name: Annotated[str, typer.Option(help="Name by which queries ask it.")],
    goal: Annotated[
        str,
        typer.Option(help="'p95 <= 50 ms, accuracy >= 90%, >= 1 replicas, <= 2 replicas, region north, operator lab'"),
    ] = "",
    licence: Annotated[
        str,
        typer.Option(help="Under which you give it (Apache-2.0, as SPDX has it); hosts may ask for certain ones."),
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            help="Stages, each at a host of its own: a number, 'fit' for as few as fit, 'never'. Without it only where "
            "no host has the memory for the whole."
        ),
    ] = "",
    canary: Annotated[
        float, typer.Option(help="Share of the model's queries that try this version beside the one that is served.")
    ] = 0.0,
    canary_hours: Annotated[
        float, typer.Option(help="How long it is tried; what cannot be told by then is decided for the old version.")
    ] = 24.0,
    retrain: Annotated[
        int,
        typer.Option(
            help="Where judged answers show that it got worse, the job that made it is submitted again in your name, "
            "with its deadline and budget, so many times at most; what it delivers is tried with --canary, or 0.1."
        ),
    ] = 0,
    check_hours: Annotated[
        float,
        typer.Option(help="With --retrain: so often a verification unit measures it on fresh samples, whoever judged."),
    ] = 0.0,
    wait: Annotated[float, typer.Option(help="Seconds to wait until it answers; 0: do not.")] = 120.0,
    token: Token = None,
    json: Json = False,
) -> None:
    """Give a trained model to the network; it is admitted and placed on hosts, or refused with every reason."""
    with errors(json), _connect(token) as network:
        agreed = _retraining(retrain, check_hours, canary, canary_hours)
        tried = _canary(canary, canary_hours) if agreed is None else None
        status = network.models.deploy(
            package, name, goal, split=_split(split), canary=tried, retrain=agreed, licence=licence
        )
        if status.phase.value != "refused" and wait > 0:
            status = network.models.wait(name, wait)
        answer(json, status, lambda where: _show(where, (status,)))
        if status.phase.value == "refused":
            raise typer.Exit(3)


def models(token: Token = None, json: Json = False) -> None:
    """Your models that are served, and where."""
    with errors(json), _connect(token) as network:
        found = network.models.list()
        answer(json, {"models": found}, lambda where: _show(where, found))


def undeploy(
    name: Annotated[str, typer.Argument(help="As `daitn models` shows it.")], token: Token = None, json: Json = False
) -> None:
    """Serve a model no longer."""
    with errors(json), _connect(token) as network:
        status = network.models.undeploy(name)
        answer(json, status, lambda where: where.print(f"model {name} is withdrawn"))


def _split(text: str) -> int | bool | None:
    if text in SPLITS:
        return SPLITS[text]
    if not text.isdecimal() or not 1 <= int(text) <= STAGES_MOST:
        raise InputError(
            f"--split {text[:40]!r} is no number of stages", todo=f"give 1 to {STAGES_MOST}, 'fit', or 'never'"
        )
    return int(text)


def _canary(share: float, hours: float) -> CanaryWanted | None:
    from daitn.descriptors.versions import CanaryWanted

    if share == 0:
        return None
    if not 0 < share <= 0.5:
        raise InputError(f"--canary {share:g} is no share of queries", todo="give more than 0 and at most 0.5")
    if not 0 < hours <= 720:
        raise InputError(f"--canary-hours {hours:g}", todo="give more than 0 and at most 720")
    return CanaryWanted(share=share, hours=hours)


def _retraining(times: int, every_h: float, share: float, hours: float) -> Retraining | None:
    from daitn.descriptors.versions import Retraining

    if times == 0 and every_h == 0:
        return None
    if every_h and not 0 < every_h <= 720:
        raise InputError(f"--check-hours {every_h:g}", todo="give more than 0 and at most 720")
    if not 1 <= times <= 100:
        raise InputError(f"--retrain {times} is no number of jobs", todo="give 1 to 100")
    tried = _canary(share or 0.1, hours)
    assert tried is not None
    return Retraining(times=times, check_hours=every_h or None, share=tried.share, hours=tried.hours)


def _doing(one: ModelStatus) -> str:
    """How a model does: queries, what was judged, its new version."""
    lines = [f"{one.live.answered} answered, {one.live.lost} lost"] if one.live.answered or one.live.lost else []
    for each in one.latency:
        if each.kept is not None:
            found = "lost" if each.measured_s is None else f"{each.measured_s * 1000:.1f} ms"
            lines.append(f"{each.target}: {found}" + " NOT KEPT" * (not each.kept))
    for field in one.live.fields:
        name = f"accuracy@{field.field}" if field.field else "accuracy"
        was = "" if field.measured is None else f", {field.measured:.1%} measured"
        lines.append(f"{name} {field.accuracy:.1%} ({field.low:.1%} – {field.high:.1%}){was}" + " FELL" * field.fell)
    if one.live.temperature != 1.0:
        lines.append(f"scores fit at temperature {one.live.temperature:.3g}")
    if one.live.threshold != 0.5:
        lines.append(f"the second class is better told from a share of {one.live.threshold:g} on")
    if (canary := one.canary) is not None:
        judged = f"{canary.right:.0f} of {canary.rows:.0f} right, old {canary.old_right:.0f} of {canary.old_rows:.0f}"
        lines.append(f"new version {canary.artifact[:8]} with {canary.share:.0%}: {judged}")
    if (again := one.retraining) is not None:
        lines.append(
            f"training by itself: {again.trained} of {again.agreed.times}" + f", job {again.job}" * bool(again.job)
        )
        lines += again.ended[-1:]
        lines += [f"{name} {value:.4g} on fresh samples" for name, value in list(again.checked.items())[:4]]
    return "\n".join([*lines, *one.versions[-1:]])


def _show(where: Any, found: tuple[ModelStatus, ...]) -> None:
    from rich.table import Table

    table = Table("model", "phase", "goal", "replicas", "one row", "live", "reasons")
    for one in found:
        replicas = [
            f"{each.name} {each.phase}"
            + (f", stage {each.stage} of {one.stages}" if each.stage else "")
            + ("" if each.reachable else " (silent)")
            for each in one.replicas
        ]
        served = [each.measured for each in one.replicas if each.measured.row_s]
        times = [f"{each.row_s * 1000:.1f} ms, {each.engine.value}" for each in served]
        table.add_row(
            one.model,
            one.phase.value,
            str(one.goal),
            "\n".join(replicas),
            "\n".join(times),
            _doing(one),
            "\n".join(one.reasons[-3:]),
        )
    where.print(table if found else "no models are served for you: daitn deploy PACKAGE --name NAME")


def _connect(token: str | None) -> Network:
    from daitn.sdk.network import connect

    return connect(token, patience_s=5.0)
