"""The data of the demonstration: scikit-learn's two small sets, dealt out to the sites and written as each site would.

Every record of the source goes to exactly one site. Each site has its own column names, units, codes for labels and
file format, and some numbers missing; so each needs a column map, which is written beside the data with the policy.
Everything follows from one seed. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from daitn.demo.hospitals.contracts import DIAGNOSES, DIGITS, FEATURES, INK, breast_contract, digits_contract
from daitn.demo.hospitals.formats import WRITERS, LocalTable
from daitn.demo.hospitals.sites import SITES, Holding, Kind, Site
from daitn.descriptors.contract import DataContract
from daitn.scenario.files import policy_toml, toml_value

SEED: Final = 7
NEW_SAMPLES: Final = 40
"""Samples, with all others of their patients, that no site gets: for trying the finished model."""
TWO_SAMPLES_FRAC: Final = 0.2
"""Share of samples that come from a patient seen before: so that grouping by patient matters."""


class SiteFiles(NamedTuple):
    """What a site brings for one data set: paths for `daitn data add`."""

    site: str
    dataset: str
    data: Path
    contract: Path
    policy: Path
    column_map: Path


class _Naming(NamedTuple):
    """A site's own way of writing samples. `codes`: its codes of benign and malignant."""

    column: Callable[[str], str]
    codes: tuple[Any, Any]
    label: str
    patient: str
    length_factor: float = 1.0
    """Contract unit (µm) = local unit × this; areas by its square."""


_SHORT: Final = {"mean": "m", "error": "e", "worst": "w"}


def _parts(name: str) -> tuple[str, str]:
    """`mean_radius` → mean, radius; `radius_error` → error, radius."""
    if name.endswith("_error"):
        return "error", name.removesuffix("_error")
    kind, _, rest = name.partition("_")
    return kind, rest


def _suffixed(name: str) -> str:
    """`radius_mean`, `radius_se`, `radius_worst`: as the source's first publication has them."""
    kind, rest = _parts(name)
    return f"{rest}_{'se' if kind == 'error' else kind}"


def _french(name: str) -> str:
    kind, rest = _parts(name)
    return f"{_SHORT[kind]}_{rest}"


def _numbered(name: str) -> str:
    return f"v{[column for column, *_ in FEATURES].index(name) + 1:02d}"


_BREAST_STYLES: Final[dict[str, _Naming]] = {
    "registry": _Naming(_suffixed, ("B", "M"), "diag", "pat_id", 1000.0),
    "coded": _Naming(lambda name: name, (0, 1), "malignant", "case"),
    "french": _Naming(_french, ("bénigne", "maligne"), "diagnostic", "dossier"),
    "capitals": _Naming(str.upper, ("benign", "malignant"), "DIAGNOSIS", "PATIENT", 10.0),
    "numbered": _Naming(_numbered, (False, True), "positive", "number"),
}

_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

_FORM_STYLES: Final[dict[str, tuple[str, str, tuple[Any, ...]]]] = {
    "folders": ("image", "label", DIGITS),
    "plain": ("image", "label", tuple(range(10))),
    "scans": ("scan", "written_digit", tuple(range(10))),
    "words": ("pixels", "word", _WORDS),
    "pictures": ("picture", "digit", DIGITS),
}
"""Local image column, local label column, local code of each digit."""


class Source(NamedTuple):
    """All records of one kind, N of them: features (N, 30) or images (N, 8, 8), label index, patient (breast only)."""

    values: NDArray[Any]
    labels: NDArray[np.int64]
    patients: list[str]


def load_source(kind: Kind, seed: int = SEED) -> Source:
    """All records of a kind, from the copy inside scikit-learn."""
    if kind == "forms":
        from sklearn.datasets import load_digits

        digits = load_digits()
        return Source((digits.images * INK).astype(np.uint8), digits.target.astype(np.int64), [])
    from sklearn.datasets import load_breast_cancer

    cells = load_breast_cancer()
    labels = 1 - cells.target.astype(np.int64)  # the source has 0 for malignant; the contract lists benign first
    return Source(cells.data, labels, _patients(labels, np.random.default_rng(seed)))


def _patients(labels: NDArray[np.int64], rng: np.random.Generator) -> list[str]:
    """Pseudonyms; some samples share the patient of the last sample with the same diagnosis."""
    last: dict[int, str] = {}
    patients: list[str] = []
    for number, label in enumerate(labels.tolist()):
        if label not in last or rng.random() >= TWO_SAMPLES_FRAC:
            last[label] = f"p{number:04d}"
        patients.append(last[label])
    return patients


def deal(source: Source, holdings: list[tuple[Site, Holding]], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Row numbers of each holding: of each label its share, in random order; every row goes to exactly one."""
    dealt: list[list[int]] = [[] for _ in holdings]
    for label in np.unique(source.labels).tolist():
        rows = rng.permutation(np.flatnonzero(source.labels == label))
        ends = np.cumsum([holding.shares[label] for _, holding in holdings])
        cuts = np.round(ends[:-1] / ends[-1] * len(rows)).astype(np.int64)
        for place, part in enumerate(np.split(rows, cuts)):
            dealt[place] += part.tolist()
    return [rng.permutation(np.array(rows, dtype=np.int64)) for rows in dealt]


def set_aside(source: Source, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """True for `count` random samples and whatever else their patients have."""
    chosen = {source.patients[row] for row in rng.permutation(len(source.patients))[:count].tolist()}
    return np.array([patient in chosen for patient in source.patients], dtype=np.bool_)


def _breast_table(
    source: Source, rows: NDArray[np.int64], holding: Holding, rng: np.random.Generator
) -> tuple[LocalTable, dict[str, Any]]:
    naming = _BREAST_STYLES[holding.style]
    table: LocalTable = {naming.patient: [source.patients[row] for row in rows]}
    columns: dict[str, Any] = {"patient": {"column": naming.patient}}
    for place, (name, unit, _, _) in enumerate(FEATURES):
        factor = {"µm": naming.length_factor, "µm²": naming.length_factor**2}.get(unit, 1.0)
        absent = rng.random(len(rows)) < holding.missing_frac
        values = [round(float(value), 10) for value in source.values[rows, place] / factor]
        table[naming.column(name)] = [None if gone else value for gone, value in zip(absent, values, strict=True)]
        columns[name] = {"column": naming.column(name)} | ({"multiply": factor} if factor != 1.0 else {})
    table[naming.label] = [naming.codes[label] for label in source.labels[rows]]
    columns["diagnosis"] = _label_entry(naming.label, naming.codes, DIAGNOSES)
    return table, columns


def _forms_table(source: Source, rows: NDArray[np.int64], holding: Holding) -> tuple[LocalTable, dict[str, Any]]:
    image, label, codes = _FORM_STYLES[holding.style]
    table: LocalTable = {image: source.values[rows].tolist(), label: [codes[one] for one in source.labels[rows]]}
    return table, {"image": {"column": image}, "digit": _label_entry(label, codes, DIGITS)}


def _label_entry(column: str, codes: tuple[Any, ...], vocabulary: tuple[str, ...]) -> dict[str, Any]:
    """The map's entry for a label column; codes that are the vocabulary's own words need no translation."""
    texts = [str(code).lower() if isinstance(code, bool) else str(code) for code in codes]
    values = {} if tuple(texts) == vocabulary else {"values": dict(zip(texts, vocabulary, strict=True))}
    return {"column": column} | values


def contract_of(kind: Kind) -> DataContract:
    """The contract of a kind of data."""
    return breast_contract() if kind == "breast" else digits_contract()


def new_samples_file(folder: Path) -> Path:
    """Where `write_all` puts the samples that no site has."""
    return folder / "new-samples.csv"


def write_all(folder: Path, seed: int = SEED) -> tuple[SiteFiles, ...]:
    """Deal out both sources and write `folder/<site>/…`; the same seed writes the same records. About a second."""
    written: list[SiteFiles] = []
    kinds: tuple[Kind, ...] = ("breast", "forms")
    folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        source = load_source(kind, seed)
        rng = np.random.default_rng((seed, len(kind)))
        if kind == "breast":
            source = _without_new(source, folder, rng)
        holdings = [(site, holding) for site in SITES for holding in site.holdings if holding.kind == kind]
        for (site, holding), rows in zip(holdings, deal(source, holdings, rng), strict=True):
            if kind == "breast":
                table, columns = _breast_table(source, rows, holding, rng)
            else:
                table, columns = _forms_table(source, rows, holding)
            written.append(_write_site(folder / site.name, site, holding, table, columns))
    return tuple(written)


def _without_new(source: Source, folder: Path, rng: np.random.Generator) -> Source:
    """What is left once the new samples are in their file, in the contract's own columns."""
    new = set_aside(source, NEW_SAMPLES, rng)
    table: LocalTable = {name: source.values[new, place].tolist() for place, (name, *_) in enumerate(FEATURES)}
    table["diagnosis"] = [DIAGNOSES[label] for label in source.labels[new]]
    WRITERS["csv"](table, new_samples_file(folder))
    kept = [patient for patient, gone in zip(source.patients, new, strict=True) if not gone]
    return Source(source.values[~new], source.labels[~new], kept)


def _write_site(home: Path, site: Site, holding: Holding, table: LocalTable, columns: dict[str, Any]) -> SiteFiles:
    home.mkdir(parents=True, exist_ok=True)
    kind = holding.kind
    files = SiteFiles(
        site=site.name,
        dataset=kind,
        data=WRITERS[holding.format](table, home / kind),
        contract=home / f"{kind}.contract.json",
        policy=home / f"{kind}.policy.toml",
        column_map=home / f"{kind}.map.toml",
    )
    files.contract.write_bytes(msgspec.json.format(msgspec.json.encode(contract_of(kind))))
    files.policy.write_text(policy_toml(holding.policy), encoding="utf-8")
    lines = [f"{name} = {toml_value(entry)}" for name, entry in columns.items()]
    files.column_map.write_text("[columns]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return files
