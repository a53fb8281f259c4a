"""`daitn limits`: how many jobs a domain runs, of how many of one owner, and how urgent they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daitn.cli.nodes import DOMAIN, DomainFolder
from daitn.cli.output import Json, answer, errors


def set_limits(
    folder: DomainFolder = DOMAIN,
    running: Annotated[int | None, typer.Option(help="Jobs that run at the same time.")] = None,
    running_per_owner: Annotated[int | None, typer.Option(help="Of these, jobs of one owner.")] = None,
    per_owner: Annotated[int | None, typer.Option(help="Jobs of one owner that have not ended.")] = None,
    priority_most: Annotated[int | None, typer.Option(help="The highest priority of an owner's job: 0 to 9.")] = None,
    priority: Annotated[
        list[str] | None, typer.Option(metavar="OWNER=N", help="The same for one owner; repeat for more.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the limits of a domain's jobs, or change those given; they hold from the next start of the centre."""
    with errors(json):
        limits = _changed(
            folder,
            {
                "running": running,
                "running_per_owner": running_per_owner,
                "per_owner": per_owner,
                "priority_most": priority_most,
            },
            priority or (),
        )
        lines = [f"{name}: {value}" for name, value in limits.items()]
        answer(json, limits, lambda where: where.print("\n".join(lines), markup=False))


def _changed(folder: Path, given: dict[str, int | None], priorities: list[str] | tuple[()]) -> dict[str, Any]:
    """The limits as they are after what was given is kept; where nothing was, nothing is written."""
    import msgspec

    from daitn.base.errors import InputError
    from daitn.descriptors.job_limits import JobLimits, parse_priorities
    from daitn.node.domain_folder import DomainFolder as Folder

    here = Folder(folder)
    config = here.load()
    old: dict[str, Any] = msgspec.to_builtins(config.jobs)
    new = old | {name: value for name, value in given.items() if value is not None}
    new["priorities"] = {**old["priorities"], **parse_priorities(priorities)}
    if new != old:
        try:
            limits = msgspec.convert(new, type=JobLimits)
        except msgspec.ValidationError as error:
            raise InputError(f"these limits cannot be: {error}", todo="correct the value named") from None
        here.save(msgspec.structs.replace(config, jobs=limits))
    return new
