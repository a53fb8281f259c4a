"""`daitn key`: keys that may ask models, and what each of them may ask."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daitn.cli.output import Json, Token, answer, errors

app = typer.Typer(help="Keys that ask models at gateways (needs an operator's token).", no_args_is_help=True)

Model = Annotated[list[str] | None, typer.Option(help="May ask this model only; may be repeated, up to 4 times.")]
Priority = Annotated[str, typer.Option(help="Whose queries go first where some wait: low, normal, high.")]
Weight = Annotated[float, typer.Option(help="Its part beside others of its priority that wait too: 0.01 to 100.")]
PerMinute = Annotated[int | None, typer.Option("--queries-per-minute", help="Queries; without it, no quota.")]
TokensMinute = Annotated[int | None, typer.Option("--tokens-per-minute", help="Tokens of prompts and answers.")]
TokensDay = Annotated[int | None, typer.Option("--tokens-per-day", help="The same in a day.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    model: Model = None,
    priority: Priority = "normal",
    weight: Weight = 1.0,
    queries_per_minute: PerMinute = None,
    tokens_per_minute: TokensMinute = None,
    tokens_per_day: TokensDay = None,
    valid: Annotated[str | None, typer.Option(help="How long it is good for: '1 day', '8h'.")] = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """A key for asking models; shown once."""
    with errors(json), _connect(token) as network:
        terms = _terms(model, priority, weight, queries_per_minute, tokens_per_minute, tokens_per_day)
        made = network.make_owner_token(name, ("ask",), terms=terms, **_valid(valid))
        answer(json, {"token": made}, lambda where: where.print(made, soft_wrap=True))


@app.command("set")
def set_key(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `daitn key list` shows it.")],
    model: Model = None,
    priority: Priority = "normal",
    weight: Weight = 1.0,
    queries_per_minute: PerMinute = None,
    tokens_per_minute: TokensMinute = None,
    tokens_per_day: TokensDay = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """Other terms for a key, in place of all that it had; gateways know within three seconds."""
    with errors(json), _connect(token) as network:
        terms = _terms(model, priority, weight, queries_per_minute, tokens_per_minute, tokens_per_day)
        changed = network.set_key_terms(identity, terms)
        answer(json, changed, lambda where: where.print(f"key {changed.id} of {changed.owner} has these terms"))


@app.command("list")
def list_keys(token: Token = None, json: Json = False) -> None:
    """All keys that may ask models, with their terms."""
    with errors(json), _connect(token) as network:
        keys = tuple(one for one in network.owner_tokens() if "ask" in one.scopes)

        def show(where: Any) -> None:
            from daitn.cli import render

            where.print(render.keys_table(keys))

        answer(json, keys, show)


@app.command()
def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `daitn key list` shows it.")],
    token: Token = None,
    json: Json = False,
) -> None:
    """End a key; gateways know within three seconds."""
    with errors(json), _connect(token) as network:
        ended = network.revoke_owner_token(identity)
        answer(json, ended, lambda where: where.print(f"key {ended.id} of {ended.owner} is revoked"))


def _terms(
    models: list[str] | None,
    priority: str,
    weight: float,
    queries_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens_per_day: int | None,
) -> Any:
    from daitn.base.errors import InputError
    from daitn.base.ids import ModelName
    from daitn.descriptors.key_terms import KeyPriority, KeyTerms, check_terms

    known = [one.value for one in KeyPriority]
    if priority not in known:
        raise InputError(f"{priority[:40]!r} is no priority", todo=f"give one of {', '.join(known)}")
    return check_terms(
        KeyTerms(
            models=tuple(map(ModelName, models or ())),
            priority=KeyPriority(priority),
            weight=weight,
            queries_per_minute=queries_per_minute,
            tokens_per_minute=tokens_per_minute,
            tokens_per_day=tokens_per_day,
        )
    )


def _valid(text: str | None) -> dict[str, float]:
    from daitn.sdk.requests import parse_duration

    return {} if text is None else {"valid_s": parse_duration(text)}


def _connect(token: str | None) -> Any:
    from daitn.sdk.network import connect

    return connect(token, patience_s=5.0)
