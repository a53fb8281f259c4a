"""`daitn predict`: rows of a file through a package's model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from daitn.cli.output import Json, answer, errors


def predict_file(
    package: Annotated[Path, typer.Argument(help="Directory of a model package, as `daitn train fetch` makes one.")],
    file: Annotated[Path, typer.Argument(help="CSV, Parquet, NPZ, JSONL, Arrow, IDX, or a folder of images.")],
    column_map: Annotated[
        Path | None, typer.Option("--map", help="Column map (TOML), where the file's columns have other names.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write all rows there: .csv or .jsonl.")] = None,
    json: Json = False,
) -> None:
    """Label and probability, or value, for each row."""
    with errors(json):
        from daitn.node.site_files import load_column_map
        from daitn.sdk.predict import predict, summarise, write_predictions

        rows = list(predict(package, file, load_column_map(column_map) if column_map else None))
        if out is not None:
            write_predictions(rows, out)
        found = summarise(rows)

        def show(where: Any) -> None:
            from daitn.cli import render

            where.print(render.predictions_table(rows, found))

        answer(json, {"rows": rows, "summary": found}, show)
