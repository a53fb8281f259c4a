"""`daitn map`: the domain as it is, and questions about it: asked, in SQL, explained, saved and watched."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daitn.cli.output import Json, Token, answer, console, errors

if TYPE_CHECKING:
    from daitn.sdk.network import Network

app = typer.Typer(help="The map: its nodes, and questions about everything on it.", invoke_without_command=True)

QuestionText = Annotated[
    str, typer.Argument(metavar="QUESTION", help="As `terminal where computes top 5 by trust`, or JSON; - reads it.")
]
SavedName = Annotated[str, typer.Argument(metavar="NAME", help="Name of a saved question.")]


@app.callback()
def show_map(
    context: typer.Context,
    token: Token = None,
    trust: Annotated[bool, typer.Option("--trust", help="Why each node is trusted as far as it is.")] = False,
    json: Json = False,
) -> None:
    """The map: nodes, their data sets and compute, when they were last heard of, and how far they are trusted."""
    if context.invoked_subcommand is not None:
        return
    with errors(json), _connect(token) as network:
        found = network.nodes()

        def show(where: Any) -> None:
            from daitn.cli import render

            where.print(render.map_table(found))
            if trust:
                where.print(render.trust_table(found))
                if not any(one.trust_changes for one in found):
                    where.print("no changes are shown: none was seen, or this is no operator's token")

        answer(json, found, show)


@app.command()
def ask(
    question: QuestionText,
    of: Annotated[str, typer.Option("--of", help="A neighbour, whose map is asked: see `daitn neighbour`.")] = "",
    token: Token = None,
    json: Json = False,
) -> None:
    """Ask the map: `data where records >= 2000 and terminal.trust >= 0.8 top 50 by records`."""
    with errors(json), _connect(token) as network:
        found = network.map.ask(_read(question), of=of)

        def show(where: Any) -> None:
            from daitn.cli import render_map

            where.print(render_map.answer_table(found))
            where.print(render_map.answer_line(found))

        answer(json, found, show)


@app.command()
def hosts(
    model: Annotated[str, typer.Argument(help="Name of a model; empty: any that is good enough.")] = "",
    field: Annotated[str, typer.Option(help="What the query is of: accuracy counts there.")] = "",
    accuracy: Annotated[float | None, typer.Option(help="At least so good, by a unit.", min=0, max=1)] = None,
    deadline: Annotated[float | None, typer.Option(help="Answered within so many seconds.", min=0.001)] = None,
    region: Annotated[str, typer.Option(help="Hosts of this region only.")] = "",
    zone: Annotated[list[str] | None, typer.Option(help="Hosts of this operator only; may be said again.")] = None,
    price: Annotated[float | None, typer.Option(help="Of one query, at most.", min=0, max=1e9)] = None,
    asked_from: Annotated[str, typer.Option("--from", help="A gateway or other terminal: paths from there.")] = "",
    watch: Annotated[bool, typer.Option(help="Tell when another host would be chosen; one JSON line each.")] = False,
    token: Token = None,
    json: Json = False,
) -> None:
    """Which hosts may serve a query now, the soonest first, which may not and why, and what is asked."""
    with errors(json):
        from daitn.descriptors.query_view import QueryRequest
        from daitn.descriptors.serving import QueryGoal

        goal = QueryGoal(
            deadline_s=deadline,
            quality_least=accuracy,
            field=field,
            region=region,
            zone=tuple(zone or ()),
            price_most=price,
        )
        request = QueryRequest(model=model, goal=goal, asked_from=asked_from)
        with _connect(token) as network:
            for view in network.map.follow_hosts(request) if watch else [network.map.hosts(request)]:
                answer(json, view, partial(_show_hosts, view))


def _show_hosts(view: Any, where: Any) -> None:
    from daitn.cli import render_hosts

    render_hosts.show_query_view(where, view)


@app.command()
def sql(
    question: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT; tables are kinds of things; - reads it.")],
    token: Token = None,
    json: Json = False,
) -> None:
    """Ask the map in SQL: `select region, count(*) from terminal where reachable group by region`."""
    with errors(json), _connect(token) as network:
        found = network.map.sql(_text(question))

        def show(where: Any) -> None:
            from daitn.cli import render_map

            where.print(render_map.sql_table(found))

        answer(json, found, show)


@app.command()
def explain(
    thing: Annotated[str, typer.Argument(help="Id of a terminal or other thing; of a terminal, its name will do.")],
    question: Annotated[str, typer.Option("--question", help="The question, or the name of a saved one.")],
    token: Token = None,
    json: Json = False,
) -> None:
    """Why a terminal is, or is not, in an answer: each condition with what it read, and the rank."""
    with errors(json), _connect(token) as network:
        saved = {one.name: one.question for one in network.map.saved()}
        found = network.map.explain(saved.get(question) or _read(question), thing)

        def show(where: Any) -> None:
            from daitn.cli import render_map

            where.print(render_map.clauses_table(found))
            where.print(render_map.verdict(found))

        answer(json, found, show)


@app.command()
def save(
    name: SavedName,
    question: QuestionText,
    every: Annotated[str, typer.Option(help="It is evaluated at most so often: '1s', '1 min'.")] = "1s",
    token: Token = None,
    json: Json = False,
) -> None:
    """Save a question, to be watched."""
    with errors(json):
        from daitn.sdk.requests import parse_duration

        with _connect(token) as network:
            kept = network.map.save(name, _read(question), every_s=parse_duration(every))
            answer(json, kept, lambda where: where.print(f"{name} is saved"))


@app.command()
def forget(name: SavedName, token: Token = None, json: Json = False) -> None:
    """Forget a saved question."""
    with errors(json), _connect(token) as network:
        network.map.forget(name)
        answer(json, {"forgotten": name}, lambda where: where.print(f"{name} is forgotten"))


@app.command()
def saved(token: Token = None, json: Json = False) -> None:
    """All saved questions."""
    with errors(json), _connect(token) as network:
        found = network.map.saved()

        def show(where: Any) -> None:
            from daitn.cli import render_map

            where.print(render_map.saved_table(found))

        answer(json, found, show)


@app.command()
def watch(
    name: SavedName,
    changes: Annotated[int, typer.Option(help="End after so many changes; 0: never.", min=0)] = 0,
    token: Token = None,
    json: Json = False,
) -> None:
    """Tell when the answer to a saved question changes: who entered, who left, who moved. One JSON line each."""
    with errors(json), _connect(token) as network:
        seen = 0
        for told in network.map.watch(name):
            seen += len(told.changes)
            _tell(told, json)
            if changes and seen >= changes:
                return


def _tell(told: Any, json: bool) -> None:
    if json:
        answer(True, told, lambda _: None)
        return
    from daitn.cli import render_map

    where = console()
    if told.answer is not None and not told.changes:
        where.print(render_map.answer_table(told.answer))
        where.print(render_map.answer_line(told.answer))
    for change in told.changes:
        for line in render_map.change_lines(change):
            where.print(line)


def _read(question: str) -> Any:
    from daitn.sdk.map_questions import read_question

    return read_question(_text(question))


def _text(given: str) -> str:
    """What was given, or the input where that is `-`, or a file where it begins with @."""
    if given == "-":
        return sys.stdin.read(1 << 20)
    return Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") and len(given) > 1 else given


def _connect(token: str | None) -> Network:
    from daitn.sdk.network import connect

    return connect(token, patience_s=5.0)
