"""What the paper says of describing data that must not be shown, claim by claim."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from tests.builders import START_NS, make_contract, make_data, make_site
from tests.contract.test_descriptions import BASES, CONTRACT, POLICY, make_source
from tests.paper.claims import claim
from tests.unit.test_views import view_of

from daitn.base.ids import DataSetId
from daitn.describe.report import FitReport
from daitn.describe.statistics import count_records, describe_data, draw_release
from daitn.descriptors.contract import CategoryColumn, FieldByColumn
from daitn.descriptors.descriptions import Sketch, Synthetic
from daitn.descriptors.terminals import Histogram


@claim(
    "V-A, privacy",
    "What is gathered of terminals is disguised, by generative representations among others.",
    "daitn.describe.family.FAMILY",
    "daitn.node.releases.ReleaseBook",
)
def test_records_that_never_were_stand_for_those_that_must_not_be_shown(tmp_path: Path) -> None:
    source = make_source(tmp_path, 200)
    counts = count_records(source.table, CONTRACT, POLICY)
    release = draw_release("k", counts, CONTRACT, POLICY, 8.0, source=source, bases=BASES)
    report = FitReport(
        contract="c", version="v", rows=800, records=800, held_out=0, groups=200, duplicates=0, rows_with_missing=0,
        rows_out_of_vocabulary=0,
    )  # fmt: skip
    described = describe_data(DataSetId("n/d"), source.table, CONTRACT, POLICY, release, report)
    said = msgspec.json.encode(described)
    texts = source.table.texts("note")
    assert not any(texts.text(row).encode() in said for row in range(source.table.rows))
    (synthetic,) = [one for one in described.descriptions if isinstance(one, Synthetic)]
    ages = {word: [float(row[1]) for row in synthetic.cells if row[0] == word and row[1]] for word in ("ill", "well")}
    # What the records are like can be seen of it: the ill are thirty years older.
    assert 15 < np.mean(ages["ill"]) - np.mean(ages["well"]) < 45
    real = {f"{value:.6g}" for value in source.table.numbers(["age"])[:, 0]}
    assert len(real & {row[1] for row in synthetic.cells}) < 5


@claim(
    "V-B, control centre",
    "Functions that would need physical data do without it: what a site would teach is told from its description.",
    "daitn.topology.relevance.predicted_help",
)
def test_site_that_is_like_a_field_counts_for_more_without_its_records_being_seen() -> None:
    def site(number: int, counts: dict[str, float], *mean: float):
        sketch = Sketch(column="x", basis="vector-1-4", mean=mean, noise_std=0.01, groups=100.0, epsilon=0.5)
        data = make_data(
            f"s{number}",
            columns=contract.columns,
            fields=contract.fields,
            field_counts=Histogram(counts=counts),
            descriptions=(sketch,),
        )
        return make_site(number, data=(data,))

    ward = CategoryColumn(name="ward", values=("0", "1"))
    contract = make_contract(columns=(*make_contract().columns, ward), fields=(FieldByColumn(column="ward"),))
    heart = site(1, {"0": 200.0, "1": 0.0}, 1.0, 0.0, 0.0, 0.0)
    lung = site(2, {"0": 0.0, "1": 200.0}, 0.0, 1.0, 0.0, 0.0)
    like_heart = site(3, {"0": 0.0, "1": 0.0}, 0.9, 0.1, 0.0, 0.0)
    view = view_of(heart, lung, like_heart, contract=contract, now_ns=START_NS)
    relevance = {one.dataset: one.relevance for one in view.candidates}
    assert relevance[DataSetId("s3/records")]["0"] > relevance[DataSetId("s2/records")]["0"]
    assert relevance[DataSetId("s2/records")]["1"] > relevance[DataSetId("s3/records")]["1"]
