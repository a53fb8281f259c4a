"""`daitn`: the command line. Commands parse, call and print; what they do is in `sdk` and `node`.

Groups import what they need when they run, so that `daitn --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from daitn.cli import base, counters, data, explain, key, limits, map, models, nodes, predict, token, tools, train
from daitn.cli.alarms import show_alarms
from daitn.cli.output import EXIT_CODES, fail

app = typer.Typer(
    name="daitn",
    help="A network that brings models, data and compute together.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
app.add_typer(base.app, name="base")
app.add_typer(token.app, name="token")
app.add_typer(key.app, name="key")
app.add_typer(map.app, name="map")
for command in (models.deploy, models.models, models.undeploy):
    app.command()(command)
app.command("predict")(predict.predict_file)
app.command("limits")(limits.set_limits)
app.command("explain")(explain.explain)
app.command("counters")(counters.show_counters)
app.command("links")(tools.show_links)
app.add_typer(tools.app, name="tools")
nodes.add_commands(app)
app.command("alarms")(show_alarms)


def _version(wanted: bool) -> None:
    if wanted:
        from daitn import __version__

        sys.stdout.write(f"daitn {__version__}\n")
        raise typer.Exit(0)


@app.callback()
def _options(
    version: Annotated[  # the callback has done its work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """A network that brings models, data and compute together."""


def run(arguments: Sequence[str]) -> int:
    """One command; returns its exit code. Usage errors are told as `--json` asks, too."""
    as_json = "--json" in arguments
    try:
        code = app(args=list(arguments), prog_name="daitn", standalone_mode=False)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except typer.Abort:
        return 130
    except Exception as error:
        # typer keeps its usage errors to itself; they are told by what they can say of themselves.
        said = getattr(error, "format_message", None)
        if said is None:
            raise
        if not as_json:
            error.show()  # type: ignore[attr-defined]
            return EXIT_CODES["input"]
        try:
            fail(True, "input", str(said()), "see --help")
        except typer.Exit as ended:
            return int(ended.exit_code)
    return int(code) if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the `daitn` script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
