"""`daitn train`: submit a job and follow it to its model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daitn.cli.output import REFUSED, Json, Token, answer, console, errors, fail

if TYPE_CHECKING:
    from daitn.descriptors.job import JobStatus
    from daitn.sdk.jobs import Job
    from daitn.sdk.results import Result

app = typer.Typer(help="Submit a model and a goal; follow, steer and fetch.", no_args_is_help=True)

JobName = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as `daitn train list` shows it.")]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="For example 'accuracy@cardiology >= 0.95'; repeat for more.")
]
Deadline = Annotated[str | None, typer.Option(help="How long it may take: '1h 30min', '2 days'.")]
Visits = Annotated[int | None, typer.Option(help="Most training visits.")]
TransferBytes = Annotated[str | None, typer.Option("--bytes", help="Most bytes moved: '2 GB'.")]
Price = Annotated[float | None, typer.Option(help="Most that sites may charge, in the domain's unit of account.")]
Energy = Annotated[float | None, typer.Option("--joules", help="Most energy that visits may draw.")]
LearningRate = Annotated[float | None, typer.Option(help="Pin the learning rate.")]
BatchSize = Annotated[int | None, typer.Option(help="Pin the batch size.")]
Priority = Annotated[int | None, typer.Option(help="0 to 9, the highest goes first (5); as far as you may.")]
Include = Annotated[list[str] | None, typer.Option("--data", help="Use this data set only; repeat for more.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Do not use this data set; repeat for more.")]
ExcludeNode = Annotated[
    list[str] | None,
    typer.Option(help="Neither use data of this node nor believe it as a verification unit (its id); repeat for more."),
]


@app.command()
def submit(
    spec: Annotated[Path | None, typer.Argument(metavar="[SPEC.toml]", help="A request; options go before it.")] = None,
    package: Annotated[Path | None, typer.Option(help="Directory of the model package.")] = None,
    target: Targets = None,
    deadline: Deadline = None,
    purpose: Annotated[str | None, typer.Option(help="Purpose of use, in the consortium's words.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the job; the package's if not given.")] = None,
    data: Include = None,
    exclude: Exclude = None,
    method: Annotated[str | None, typer.Option(help="Pin the method; the network chooses if not given.")] = None,
    visits: Visits = None,
    transfer_bytes: TransferBytes = None,
    price: Price = None,
    joules: Energy = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    raw_records: Annotated[str | None, typer.Option(help="'stay' (default) or 'trust-zone'.")] = None,
    priority: Priority = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    chance_floor: Annotated[
        float | None, typer.Option(help="Refuse targets less likely than this (0.25); 0: go ahead without asking.")
    ] = None,
    allow_probe: Annotated[
        bool | None,
        typer.Option("--allow-probe", help="One site may train for a moment where the verdict is not sure."),
    ] = None,
    tune: Annotated[
        int | None,
        typer.Option(metavar="TRIALS", help="Search hyper-parameters first, by so many short runs at the unit (12)."),
    ] = None,
    variant: Annotated[
        list[Path] | None,
        typer.Option(help="Package of another model, tried if this one will not reach the goal; repeat for more."),
    ] = None,
    catalogue: Annotated[
        bool | None,
        typer.Option(
            "--catalogue/--no-catalogue",
            help="Have the catalogue's models tried, if this one will not reach the goal, in the same job. "
            "Neither: in another one, after a refusal.",
        ),
    ] = None,
    until_deadline: Annotated[
        bool | None, typer.Option("--until-deadline", help="Go on even where visits bring no gain any more.")
    ] = None,
    secure_aggregation: Annotated[
        bool | None, typer.Option("--secure-aggregation", help="Nobody sees an update of one site, only their sum.")
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option("--compress", help="Hand on updates smaller: '8-bit', 'top-k' or 'top-k=0.01'."),
    ] = None,
    privacy: Annotated[
        str | None,
        typer.Option(help="Train with noise, as in 'epsilon=2,clip=1': what the job may cost each data set."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same twice is one job.")] = None,
    take: Annotated[bool, typer.Option("--take", help="If refused, take the counter-offer.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
    token: Token = None,
    json: Json = False,
) -> None:
    """Submit a job and show the network's verdict; exit code 3 if it is refused.

    The same command after one that was killed before its verdict goes on with the same job.
    """
    with errors(json):
        from daitn.sdk.submission import Submission, from_options, submit_and_take

        wanted = from_options(
            spec,
            package=package,
            targets=target,
            deadline=deadline,
            purpose=purpose,
            name=name,
            include=data,
            exclude=exclude,
            method=method,
            visits=visits,
            transfer_bytes=transfer_bytes,
            price=price,
            energy_joules=joules,
            learning_rate=learning_rate,
            batch_size=batch_size,
            raw_records=raw_records,
            seed=seed,
            priority=priority,
            chance_floor=chance_floor,
            allow_probe=allow_probe,
            tuning=None if tune is None else {"trials": tune},
            variants=variant,
            catalogue=catalogue,
            until_deadline=until_deadline,
            secure_aggregation=secure_aggregation,
            compression=compression,
            privacy=privacy,
            idempotency_key=key,
        )
        with _connect(token) as network:
            pending = network.pending_keys()
            done: Submission = submit_and_take(
                network, wanted, take=take, pending=pending, ask_catalogue=catalogue is None
            )
            last = done.last
            if watch and last.ended_unix_s is None:
                last = _follow(network.job(last.job), quiet=json)
                done = done.with_last(last)

            def show(where: Any) -> None:
                from daitn.cli import render

                where.print(render.submission(done))

            answer(json, done, show)
            pending.told()
            if last.phase.value == "refused":
                raise typer.Exit(REFUSED)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(help="Most jobs shown, newest first.")] = 50,
    token: Token = None,
    json: Json = False,
) -> None:
    """Your jobs, newest first."""
    with errors(json), _connect(token) as network:
        jobs = network.jobs(limit)

        def show(where: Any) -> None:
            from daitn.cli import render

            where.print(render.jobs_table(jobs))

        answer(json, jobs, show)


@app.command()
def show(job: JobName, token: Token = None, json: Json = False) -> None:
    """One job now: verdict, targets, where its model is."""
    with errors(json), _connect(token) as network:
        status = network.job(job).status()
        answer(json, status, lambda where: where.print(_view(status)))


@app.command()
def watch(
    job: JobName,
    lines: Annotated[bool, typer.Option("--lines", help="With --json: each status as a line, as it comes.")] = False,
    token: Token = None,
    json: Json = False,
) -> None:
    """Follow a job to its end, live: where the model is, what was measured, what is next and why."""
    with errors(json), _connect(token) as network:
        following = network.job(job)
        if json and lines:
            for status in following.watch():
                answer(True, status, lambda _: None)
            return
        last = _follow(following, quiet=json)
        answer(json, last, lambda where: where.print(_view(last)))
        if last.phase.value == "refused":
            raise typer.Exit(REFUSED)


@app.command()
def view(
    job: JobName,
    watch: Annotated[bool, typer.Option("--watch", help="Go on: tell when what is planned on moves.")] = False,
    changes: Annotated[int, typer.Option(help="With --watch: end after so many changes; 0: with the job.", min=0)] = 0,
    token: Token = None,
    json: Json = False,
) -> None:
    """What the network knows of the sites that a running job may go to next, as its route is planned on."""
    with errors(json), _connect(token) as network:
        from daitn.cli import render_view

        following = network.job(job)
        if not watch:
            found = following.view()
            answer(json, found, lambda where: render_view.show_view(where, found))
            return
        for number, (why, seen) in enumerate(following.follow_view()):
            answer(json, {"why": why, "view": seen}, partial(render_view.show_step, why=why, view=seen))
            if changes and number >= changes:
                return


@app.command()
def advise(job: JobName, token: Token = None, json: Json = False) -> None:
    """After a refusal for what the model reaches: the same request with the catalogue's models to try beside it."""
    with errors(json), _connect(token) as network:
        status = network.job(job).ask_catalogue().assessed()
        answer(json, status, lambda where: where.print(_view(status)))
        if status.phase.value == "refused":
            raise typer.Exit(REFUSED)


@app.command()
def pause(job: JobName, token: Token = None, json: Json = False) -> None:
    """No further visits for now; those under way finish."""
    with errors(json), _connect(token) as network:
        _said(json, network.job(job).pause())


@app.command()
def resume(job: JobName, token: Token = None, json: Json = False) -> None:
    """Go on with a paused job."""
    with errors(json), _connect(token) as network:
        _said(json, network.job(job).resume())


@app.command()
def cancel(job: JobName, token: Token = None, json: Json = False) -> None:
    """End a job."""
    with errors(json), _connect(token) as network:
        _said(json, network.job(job).cancel())


@app.command("set")
def change(
    job: JobName,
    target: Targets = None,
    deadline: Deadline = None,
    visits: Visits = None,
    transfer_bytes: TransferBytes = None,
    price: Price = None,
    joules: Energy = None,
    learning_rate: LearningRate = None,
    batch_size: BatchSize = None,
    data: Include = None,
    exclude: Exclude = None,
    exclude_node: ExcludeNode = None,
    priority: Priority = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Change targets, deadline, budgets, hyper-parameters, data or priority of a running job; the rest stays."""
    with errors(json):
        from daitn.sdk.submission import changes_from_options

        changes = changes_from_options(
            targets=target,
            deadline=deadline,
            visits=visits,
            transfer_bytes=transfer_bytes,
            price=price,
            energy_joules=joules,
            learning_rate=learning_rate,
            batch_size=batch_size,
            include=data,
            exclude=exclude,
            exclude_nodes=exclude_node,
            priority=priority,
        )
        with _connect(token) as network:
            status = network.job(job).change(**changes)
            targets = ", ".join(map(str, status.request.targets))
            line = f"{status.job} is {status.phase.value}: {status.reason}; it asks for {targets}"
            answer(json, status, lambda where: where.print(line, markup=False))


@app.command()
def log(
    job: JobName,
    start: Annotated[int, typer.Option(help="Number of the first entry shown.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Check the signature of every visit.")] = False,
    token: Token = None,
    json: Json = False,
) -> None:
    """The log of a job: every decision with its reason, every visit with its proof."""
    with errors(json), _connect(token) as network:
        opened = network.job(job)
        entries = opened.log(start)
        checks = opened.check_proofs() if check else ()

        def show_log(where: Any) -> None:
            from daitn.cli import render

            for entry in entries:
                where.print(render.log_line(entry), soft_wrap=not where.is_terminal)
            if check:
                where.print(render.proofs_table(checks))

        answer(json, {"entries": entries, "checks": checks} if check else entries, show_log)
        if any(one.holds is False for one in checks):
            raise typer.Exit(REFUSED)


@app.command()
def route(job: JobName, token: Token = None, json: Json = False) -> None:
    """The route of a job: every version that the control centre signed, the one that holds now last."""
    with errors(json), _connect(token) as network:
        entries = [entry for entry in network.job(job).log() if entry.kind == "route"]

        def show_route(where: Any) -> None:
            from daitn.cli import render

            for entry in entries:
                where.print(render.log_line(entry), soft_wrap=not where.is_terminal)

        answer(json, entries, show_route)


@app.command()
def card(job: JobName, token: Token = None, json: Json = False) -> None:
    """What an ended job's model is: goal and figures, the visits and data it comes from, what it cost."""
    with errors(json), _connect(token) as network:
        found = network.job(job).card()

        def show_card(where: Any) -> None:
            from daitn.cli import render_card

            where.print(render_card.card(found))

        answer(json, found, show_card)


@app.command()
def rerun(job: JobName, token: Token = None, json: Json = False) -> None:
    """Submit an ended job anew, with method, hyper-parameters and data sets pinned as they were."""
    with errors(json), _connect(token) as network:
        _said(json, network.job(job).rerun().assessed())


@app.command()
def fetch(
    job: JobName,
    folder: Annotated[Path, typer.Argument(help="Directory to make for the package.")],
    token: Token = None,
    json: Json = False,
) -> None:
    """Fetch the model of an ended job as a package, checked chunk by chunk."""
    with errors(json), _connect(token) as network:
        result = _result(network.job(job), folder, json)
        document = {
            "job": result.status.job,
            "folder": str(result.folder),
            "artifact": result.artifact,
            "met": result.met,
            "targets": result.targets,
        }

        def show_result(where: Any) -> None:
            from daitn.cli import render

            where.print(f"{result.folder}: model {result.artifact[:16]}… of job {result.status.job}")
            where.print(render.targets_table(result.targets))

        answer(json, document, show_result)


def _result(job: Job, folder: Path, json: bool) -> Result:
    """The job's result; where it has none, an error whose way out is a command."""
    from daitn.sdk.jobs import JobEndedError, JobRefusedError

    try:
        return job.result(folder)
    except JobRefusedError as error:
        todo = f"`daitn train show {job.id}` has every condition"
        if error.verdict is not None and error.verdict.counter_offer is not None:
            todo += " and the counter-offer; submit it again with `--take` to take that"
        if error.verdict is not None and error.verdict.advice is not None and error.verdict.advice.named is not None:
            todo += f"; the model {error.verdict.advice.named.name!r} is predicted to reach the goal: submit that"
        fail(json, error.kind, error.what, todo, error.ids)
    except JobEndedError as error:
        fail(json, error.kind, error.what, f"`daitn train log {job.id}` tells how it came to that", error.ids)


def _connect(token: str | None) -> Any:
    from daitn.sdk.network import connect

    return connect(token, patience_s=5.0)


def _view(status: JobStatus) -> Any:
    from daitn.cli import render

    return render.job_view(status, ())


def _said(json: bool, status: JobStatus) -> None:
    answer(json, status, lambda where: where.print(f"{status.job} is {status.phase.value}: {status.reason}"))


def _follow(job: Job, *, quiet: bool) -> JobStatus:
    """Watch a job to its end: a live view on a terminal, lines elsewhere, nothing where `quiet`."""
    from daitn.cli.live import follow

    return follow(job, None if quiet else console())
