"""Question: how wrong are private histograms and distances, at which budget and how many records?

Workload: real data at ε = 0.5, 1 and 4 for a whole release (counts and sketches together, as a site publishes them by
default) and 200, 1,000 and 10,000 records. Images: MNIST parted into five sites by handwriting (slant and stroke),
each with six of the ten digits. Texts: five of MedQuAD's institutes with 200 records, two with 1,000; 10,000 no two of
them have. Tables, contributions, sensitivities and shares of the budget are the product's; the noise is OpenDP's, drawn
twenty times.

Measure, medians over draws and sites or pairs of sites: `histogram_error`, half the sum of the differences between
published and exact shares of labels (0 … 1); `distance_error`, the difference between the distance that two sketches
tell and the exact one, over the exact one; `distance_rank`, Spearman's rank correlation of all pairs' distances with
the exact ones. Exact: the same sketch without noise.

    python -m benchmarks.sketches [--quick] [--json]

`--quick`: five draws, and not the 10,000.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from benchmarks.relevance import RESULTS as RELEVANCE_RESULTS
from benchmarks.relevance import spearman
from benchmarks.relevance_world import (
    SECRET,
    add_digits,
    find_folder,
    hands_of,
    mnist_contract,
    read_digits,
)
from benchmarks.report import arguments, make_document, print_report
from daitn.demo.medquad.data import contract_of, core_foci, read_institute
from daitn.demo.medquad.sites import INSTITUTES
from daitn.describe.column_map import ColumnMap
from daitn.describe.family import FAMILY
from daitn.describe.family.contract import Facts, Measured, Part
from daitn.describe.mechanisms import Share, make_share, opendp_laplace
from daitn.describe.statistics import Release, count_records, draw_release, measurable
from daitn.descriptors.contract import DataContract
from daitn.descriptors.descriptions import Sketch
from daitn.descriptors.policy import Policy
from daitn.node.datasets import DataShelf
from daitn.topology.relevance import squared_distance

RESULTS: Final = RELEVANCE_RESULTS.with_name("sketches.json")
EPSILONS: Final = (0.5, 1.0, 4.0)
SIZES: Final = (200, 1000, 10_000)
DRAWS: Final = 20
SITES: Final = 5
SEED: Final = 11


class Site(NamedTuple):
    """One site's exact integers, and how a release of ε = 1 divides its budget."""

    contract: DataContract
    labels: NDArray[np.float64]
    groups: int
    release: Release
    measured: tuple[Measured, ...]


def make_site(shelf: DataShelf, name: str) -> Site:
    """What a site of the shelf would publish, before the noise."""
    entry, table = shelf.entry(name), shelf.table(name)
    counts = count_records(table, entry.contract, entry.policy)
    source = measurable(table, entry.contract, entry.policy)
    exact = draw_release("k", counts, entry.contract, entry.policy, 1.0, lambda c, _, __: list(c), source=source)
    measured = tuple(Measured(list(part.integers), part.share.sensitivity) for part in exact.parts)
    return Site(entry.contract, np.array(list(counts.labels.values()), float), counts.groups, exact, measured)


def draw(site: Site, epsilon: float, exact: bool = False) -> tuple[NDArray[np.float64], list[Sketch]]:
    """Published labels and sketches of one draw at `epsilon` for the whole release."""

    def noisy(counts: Sequence[int], sensitivity: int, part: float) -> list[int]:
        return list(counts) if exact else opendp_laplace(counts, sensitivity, part * epsilon)

    shares, release = site.release.shares, site.release
    labels = np.zeros(0)
    if len(site.labels):
        values = noisy([int(v) for v in site.labels], shares["labels"].sensitivity, shares["labels"].epsilon)
        labels = np.array([value if value >= POLICY.min_count else 0 for value in values], float)
    groups = noisy([site.groups], 1, shares["groups"].epsilon)[0]
    facts = Facts(site.contract, POLICY, max(groups, 1), max(groups, POLICY.min_count), "k")
    sketches: list[Sketch] = []
    for part, measured in zip(release.parts, site.measured, strict=True):
        cost = part.share.epsilon * epsilon
        integers = noisy(measured.integers, measured.sensitivity, part.share.epsilon)
        drawn = Part(
            member=part.member,
            column=part.column,
            basis=part.basis,
            share=Share(epsilon=cost, sensitivity=1, noise_std=0.0)
            if exact
            else make_share(measured.sensitivity, cost),
            integers=tuple(integers),
        )
        one = FAMILY[part.member].publish(drawn, facts)
        if isinstance(one, Sketch):
            sketches.append(one)
    return labels, sketches


POLICY: Final = Policy(releases_per_period=1)


def image_sites(folder: Path, size: int) -> list[Site]:
    """Five sites of `size` images that train."""
    data = find_folder("mnist")
    if data is None:
        raise SystemExit("MNIST is not here: set DAITN_DATA to the folder that holds it")
    images, labels = read_digits(data, "train")
    hands, rng = hands_of(images), np.random.default_rng(SEED)
    shelf, contract = DataShelf(folder / f"images{size}", SECRET), mnist_contract()
    used = np.zeros(len(images), dtype=np.bool_)
    for number in range(SITES):
        digits = rng.choice(10, size=6, replace=False)
        # A fifth is held out: what is described are the others.
        wanted = min(round(size / 0.8), 12_000)
        order = rng.permutation(len(images))
        near = (hands[order] == 2 * number).astype(int) * 2 + np.isin(labels[order], digits)
        able = order[np.argsort(-near, kind="stable")]
        rows = able[~used[able]][:wanted]
        used[rows] = True
        add_digits(shelf, folder, f"s{number}", images[rows], labels[rows], hands[rows], contract, POLICY)
    return [make_site(shelf, f"s{number}") for number in range(SITES)]


def text_sites(folder: Path, size: int) -> list[Site]:
    """Institutes with at least `size` records that train."""
    data = find_folder("medquad")
    if data is None:
        raise SystemExit("MedQuAD is not here: set DAITN_DATA to the folder that holds it")
    core, contract = core_foci(data), contract_of()
    shelf = DataShelf(folder / f"texts{size}", SECRET)
    sites: list[Site] = []
    for one in INSTITUTES:
        rows = read_institute(data, one, core)
        if len(rows) * 0.8 >= size and len(sites) < SITES:
            path = folder / f"{one.name}.jsonl"
            taken = rows[: round(size / 0.8)]
            path.write_text("".join(json.dumps(row) + "\n" for row in taken), encoding="utf-8")
            shelf.add(one.name, path, contract, POLICY, ColumnMap())
            sites.append(make_site(shelf, one.name))
    return sites


def errors_of(sites: list[Site], epsilon: float, draws: int) -> dict[str, list[float]]:
    """Errors of each draw, medians over sites or pairs of sites."""
    exact = [draw(site, epsilon, exact=True)[1] for site in sites]
    pairs = [(left, right) for left in range(len(sites)) for right in range(left)]
    true = np.array([_distance(exact[left], exact[right]) for left, right in pairs])
    found: dict[str, list[float]] = {"histogram_error": [], "distance_error": [], "distance_rank": []}
    for _ in range(draws):
        drawn = [draw(site, epsilon) for site in sites]
        told = np.array([_distance(drawn[left][1], drawn[right][1]) for left, right in pairs])
        found["distance_error"].append(float(np.median(np.abs(told - true) / true)))
        if len(pairs) > 2:
            found["distance_rank"].append(spearman(told[None], true[None]))
        shares = [
            labels / labels.sum() - site.labels / site.labels.sum()
            for site, (labels, _) in zip(sites, drawn, strict=True)
            if labels.sum() > 0
        ]
        if shares:
            found["histogram_error"].append(statistics.median(float(np.abs(one).sum() / 2) for one in shares))
    return {name: values for name, values in found.items() if values}


def _distance(left: list[Sketch], right: list[Sketch]) -> float:
    """Distance over all columns."""
    squared = [squared_distance(*both)[0] for both in zip(left, right, strict=True)]
    return math.sqrt(max(0.0, statistics.mean(squared)))


def measure(draws: int, sizes: Sequence[int]) -> dict[str, list[float]]:
    """All figures, draw by draw."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for kind, make in (("images", image_sites), ("texts", text_sites)):
            for size in sizes:
                sites = make(Path(temporary), size)
                if len(sites) < 2:
                    continue
                for epsilon in EPSILONS:
                    for name, values in errors_of(sites, epsilon, draws).items():
                        found[f"{kind}_{name}_e{epsilon:g}_n{size}"] = values
    return found


def main() -> None:
    """Command line."""
    given = arguments(__doc__)
    drawn = measure(5 if given.quick else DRAWS, SIZES[:2] if given.quick else SIZES)
    found = {name: statistics.median(values) for name, values in drawn.items()}
    if given.quick:
        spread: dict[str, list[float]] = json.loads(RESULTS.read_text())["spread"] if RESULTS.exists() else {}
        far = [name for name, value in found.items() if name in spread and not _inside(value, spread[name])]
        if far:
            raise SystemExit(f"outside the stored spread: {', '.join(far[:5])}")
    else:
        spread = {name: [min(values), max(values)] for name, values in drawn.items()}
        document = make_document("sketches", found, {}, [SEED]) | {"spread": spread, "source": source_hash()}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    print_report("sketches", found, {}, [SEED], only_json=given.json)


def source_hash() -> str:
    """BLAKE3 of the files that were measured."""
    root, digest = Path(__file__).resolve().parents[1], blake3()
    for path in sorted((root / "src" / "daitn" / "describe" / "family").glob("*.py")):
        digest.update(path.name.encode() + b"\x00" + path.read_bytes() + b"\x00")
    return str(digest.hexdigest())[:16]


def _inside(value: float, spread: list[float]) -> bool:
    """Whether a median of five draws is within what twenty draws spread over, and half as much again: of some thirty
    figures one is outside the bare spread every fifth time, by chance alone."""
    slack = 0.5 * (spread[1] - spread[0]) + 1e-9
    return spread[0] - slack <= value <= spread[1] + slack


if __name__ == "__main__":
    main()
