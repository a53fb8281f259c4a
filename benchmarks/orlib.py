"""Reader of OR-Library's location instances: capacitated warehouses (cap41–74) and p-medians (pmed1–20)."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import floyd_warshall

from daitn.decision.placement.problem import PlacementProblem


class Instance(NamedTuple):
    """One instance and its proven optimum."""

    name: str
    problem: PlacementProblem
    optimum: float


def folder() -> Path:
    """Where the instances are: `DAITN_DATA`/orlib, or ../shared/data/orlib beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DAITN_DATA", str(beside))) / "orlib"


def read_instances() -> list[Instance]:
    """All of them, warehouses first; SystemExit where they are not there."""
    if not (folder() / "cap" / "capopt.csv").is_file():
        raise SystemExit("OR-Library is not here: set DAITN_DATA to the folder that holds orlib/")
    found = []
    with (folder() / "cap" / "capopt.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found.append(Instance(row["instance"], _warehouses(row["file"]), float(row["optimum"])))
    with (folder() / "pmed" / "pmedopt.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            problem = _medians(row["instance"] + ".txt")
            if len(problem.demand_D) != int(row["n"]) or problem.most != int(row["p"]):
                raise SystemExit(f"{row['instance']} is not what the table of optima says")
            found.append(Instance(row["instance"], problem, float(row["pmedian_optimum"])))
    return found


def _warehouses(name: str) -> PlacementProblem:
    """Costs in the file are of all of a customer's demand, which may be split."""
    numbers = np.array((folder() / "cap" / name).read_text().split(), float)
    hosts, demands = int(numbers[0]), int(numbers[1])
    sites = numbers[2 : 2 + 2 * hosts].reshape(hosts, 2)
    customers = numbers[2 + 2 * hosts :].reshape(demands, 1 + hosts)
    return PlacementProblem(
        unit_cost_HD=(customers[:, 1:] / customers[:, :1]).T,
        demand_D=customers[:, 0],
        open_cost_H=sites[:, 1],
        capacity_H=sites[:, 0],
    )


def _medians(name: str) -> PlacementProblem:
    """Distances are shortest paths; of repeated edges the last counts."""
    rows = [[int(one) for one in line.split()] for line in (folder() / "pmed" / name).read_text().splitlines() if line]
    nodes, _, medians = rows[0]
    length = np.full((nodes, nodes), np.inf)
    for one, other, cost in (row for row in rows[1:] if row):
        length[one - 1, other - 1] = length[other - 1, one - 1] = cost
    return PlacementProblem(
        unit_cost_HD=floyd_warshall(length, directed=False),
        demand_D=np.ones(nodes),
        open_cost_H=np.zeros(nodes),
        capacity_H=np.full(nodes, np.inf),
        least=medians,
        most=medians,
    )
