"""Output: what every command ends with, one answer for people or one JSON document for programs, errors included.

Exit codes say who must act: 0 done; 2 the user (usage, input); 3 a policy, or a refusal; 4 nobody, try again later
(unavailable, a peer that broke the protocol); 1 we, it is a bug.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from daitn.base.errors import DaitnError

if TYPE_CHECKING:
    from rich.console import Console

EXIT_CODES: Final = {
    "input": 2,
    "policy": 3,
    "unavailable": 4,
    "no-room": 4,
    "not-held": 4,
    "unfit": 4,
    "peer": 4,
    "bug": 1,
}
REFUSED: Final = 3
"""Exit code of a job that was refused: a result, and no error."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, errors too.")]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="DAITN_TOKEN", show_envvar=True, help="Owner's token, or a file that holds it."),
]


def answer(as_json: bool, value: Any, show: Callable[[Console], None]) -> None:
    """Print `value` as JSON, or let `show` draw it for people."""
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.flush()
    else:
        show(console())


def console() -> Console:
    """Where people read; as wide as a log line where it is no terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, soft_wrap=False, width=None if sys.stdout.isatty() else 160, highlight=False)


@contextmanager
def errors(as_json: bool) -> Iterator[None]:
    """Errors become a message (or document) and an exit code."""
    try:
        yield
    except DaitnError as error:
        fail(as_json, error.kind, error.what, error.todo, error.ids)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def fail(as_json: bool, kind: str, what: str, todo: str = "", ids: dict[str, str] | None = None) -> NoReturn:
    """Print an error and leave with its code."""
    if as_json:
        import msgspec

        document = {"error": {"kind": kind, "what": what, "todo": todo, "ids": ids or {}}}
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
        sys.stdout.flush()
    else:
        named = "".join(f" [{key} {value}]" for key, value in (ids or {}).items())
        sys.stderr.write(f"daitn: {what}{named}\n" + (f"  → {todo}\n" if todo else ""))
    raise typer.Exit(EXIT_CODES.get(kind, 1))
