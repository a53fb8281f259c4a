"""Reader of orienteering instances in OPLib's form: TSPLIB sections with a cost limit and scores."""

from __future__ import annotations

import csv
import os
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Instance(NamedTuple):
    """Costs (N, N), scores (N,), the depot's number, the limit of a closed tour, and the score EA4OP found."""

    name: str
    cost: Floats
    score: Floats
    depot: int
    limit: float
    known: float


def folder() -> Path:
    """Where the instances are: `DAITN_DATA`/oplib, or ../shared/data/oplib beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("DAITN_DATA", str(beside))) / "oplib"


def read_instances() -> list[Instance]:
    """All instances, in the index's order; SystemExit where they are not there."""
    archive = folder() / "oplib_gen1_n_le_400.tar.gz"
    if not archive.is_file():
        raise SystemExit("OPLib is not here: set DAITN_DATA to the folder that holds oplib/")
    with (folder() / "index.csv").open(newline="") as file:
        known = {row["instance"]: float(row["ea4op_route_score"]) for row in csv.DictReader(file)}
    found: dict[str, Instance] = {}
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            name = Path(member.name).stem
            data = packed.extractfile(member) if member.name.endswith(".oplib") and name in known else None
            if data is not None:
                found[name] = parse(name, data.read().decode("ascii"), known[name])
    return [found[name] for name in known]


def parse(name: str, text: str, known: float) -> Instance:
    """One instance; SystemExit for a form that is not one of OPLib's."""
    heads: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    section = ""
    for line in (line.strip() for line in text.splitlines()):
        if "SECTION" in line:
            section = line.partition("_SECTION")[0]
            sections[section] = []
        elif section and line and line != "EOF":
            sections[section].append(line)
        elif ":" in line:
            key, _, value = line.partition(":")
            heads[key.strip()] = value.strip()
    stops = int(heads["DIMENSION"])
    score = np.ones(stops)
    for line in sections.get("NODE_SCORE", ()):
        node, value = line.split()
        score[int(node) - 1] = float(value)
    depot = int(sections["DEPOT"][0].split()[0]) - 1
    cost = _costs(heads, sections, stops)
    return Instance(name, cost, score, depot, float(heads["COST_LIMIT"]), known)


def _costs(heads: dict[str, str], sections: dict[str, list[str]], stops: int) -> Floats:
    kind = heads["EDGE_WEIGHT_TYPE"]
    if kind == "EXPLICIT":
        return _explicit(heads["EDGE_WEIGHT_FORMAT"], sections["EDGE_WEIGHT"], stops)
    places = np.array([[float(one) for one in line.split()[1:3]] for line in sections["NODE_COORD"]])
    if kind == "GEO":
        return _geographic(places)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    if kind == "EUC_2D":
        cost = np.floor(apart + 0.5)
    elif kind == "ATT":
        pseudo = apart / np.sqrt(10)
        cost = np.floor(pseudo + 0.5)
        cost += cost < pseudo
    else:
        raise SystemExit(f"edge weights of type {kind!r} cannot be read")
    np.fill_diagonal(cost, 0)
    return np.asarray(cost, np.float64)


def _geographic(places: Floats) -> Floats:
    """TSPLIB's GEO: degrees and minutes, an idealised sphere, its own value of pi."""
    degrees = np.trunc(places)
    radians = 3.141592 * (degrees + 5 * (places - degrees) / 3) / 180
    latitude, longitude = radians.T
    east = np.cos(longitude[:, None] - longitude)
    minus, plus = np.cos(latitude[:, None] - latitude), np.cos(latitude[:, None] + latitude)
    angle = np.arccos(np.clip(0.5 * ((1 + east) * minus - (1 - east) * plus), -1, 1))
    cost = np.floor(6378.388 * angle + 1)
    np.fill_diagonal(cost, 0)
    return np.asarray(cost, np.float64)


def _explicit(form: str, lines: list[str], stops: int) -> Floats:
    values = np.array([float(one) for line in lines for one in line.split()])
    if form == "FULL_MATRIX":
        return np.asarray(values.reshape(stops, stops), np.float64)
    places = {
        "LOWER_DIAG_ROW": np.tril_indices(stops),
        "UPPER_ROW": np.triu_indices(stops, 1),
        "UPPER_DIAG_ROW": np.triu_indices(stops),
    }
    if form not in places:
        raise SystemExit(f"edge weights in the form {form!r} cannot be read")
    cost = np.zeros((stops, stops))
    cost[places[form]] = values
    return np.asarray(np.maximum(cost, cost.T), np.float64)
