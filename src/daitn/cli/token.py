"""`daitn token`: what operators hand out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from daitn.cli.output import Json, Token, answer, errors

app = typer.Typer(help="Tokens: let sites join and owners in (needs an operator's token).", no_args_is_help=True)

Valid = Annotated[str | None, typer.Option(help="How long it is good for: '1 day', '8h'.")]


@app.command()
def join(
    operator: Annotated[str, typer.Argument(help="Organisation that runs the node; policies speak of it.")],
    role: Annotated[list[str] | None, typer.Option(help="What the node may be: data, compute, verification, …")] = None,
    valid: Valid = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """A one-time token for `daitn join`."""
    with errors(json), _connect(token) as network:
        made = network.make_join_token(operator, tuple(role or ()), **_valid(valid))
        answer(json, {"token": made}, lambda where: where.print(made, soft_wrap=True))


@app.command()
def owner(
    name: Annotated[str, typer.Argument(help="Name of the owner; policies speak of it.")],
    scope: Annotated[
        list[str] | None, typer.Option(help="train (default), ask (query models), operate; may be repeated.")
    ] = None,
    valid: Valid = None,
    token: Token = None,
    json: Json = False,
) -> None:
    """A token for a model owner, or for another operator."""
    with errors(json), _connect(token) as network:
        made = network.make_owner_token(name, tuple(scope or ("train",)), **_valid(valid))
        answer(json, {"token": made}, lambda where: where.print(made, soft_wrap=True))


@app.command("list")
def list_tokens(token: Token = None, json: Json = False) -> None:
    """All owners' tokens, without their secrets."""
    with errors(json), _connect(token) as network:
        tokens = network.owner_tokens()

        def show(where: Any) -> None:
            from daitn.cli import render

            where.print(render.tokens_table(tokens))

        answer(json, tokens, show)


@app.command()
def revoke(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `daitn token list` shows it.")],
    token: Token = None,
    json: Json = False,
) -> None:
    """End an owner's token at once."""
    with errors(json), _connect(token) as network:
        ended = network.revoke_owner_token(identity)
        answer(json, ended, lambda where: where.print(f"token {ended.id} of {ended.owner} is revoked"))


@app.command()
def expel(
    node: Annotated[str, typer.Argument(help="Id of the node, as `daitn map` shows it.")],
    reason: Annotated[str, typer.Option(help="For the record.")] = "",
    token: Token = None,
    json: Json = False,
) -> None:
    """Burn a node's slot and take it off the map."""
    with errors(json), _connect(token) as network:
        network.expel(node, reason)
        answer(json, {"expelled": node}, lambda where: where.print(f"{node} is expelled"))


def _valid(text: str | None) -> dict[str, float]:
    from daitn.sdk.requests import parse_duration

    return {} if text is None else {"valid_s": parse_duration(text)}


def _connect(token: str | None) -> Any:
    from daitn.sdk.network import connect

    return connect(token, patience_s=5.0)
