"""An environment on a site's shelf: what it shows is written into the node's folder, and added like any other file."""

from __future__ import annotations

import zlib
from pathlib import Path

from daitn.base.names import check_name
from daitn.describe.column_map import ColumnMap
from daitn.describe.report import FitReport
from daitn.descriptors.policy import Policy
from daitn.learning.environments import environment_contract, observe
from daitn.node.datasets import DataShelf


def add_environment(shelf: DataShelf, folder: Path, name: str, environment: str, policy: Policy) -> FitReport:
    """Put an environment on the shelf as data set `name`; what it shows is kept in `folder`.

    InputError where it is of no kind that policies are trained for; UnavailableError where Gymnasium is not installed.
    """
    check_name("data set", name)
    contract = environment_contract(environment)
    path = folder / f"{name}.csv"
    shown = observe(environment, zlib.crc32(str(path.resolve()).encode()))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(shown, encoding="utf-8")
    return shelf.add(name, path, contract, policy, ColumnMap())
