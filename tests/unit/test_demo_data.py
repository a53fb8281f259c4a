"""The demonstration's data: nothing lost or twice, clearly unequal, every file fits its contract by its map."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from daitn.demo.hospitals import contracts, data
from daitn.demo.hospitals.sites import BREAST_OWNER, DIGITS_OWNER, PURPOSE, SITES
from daitn.describe.fit import Fitted, fit
from daitn.describe.splits import sample_rows, training_rows
from daitn.descriptors.contract import check_contract
from daitn.descriptors.fitting import fits
from daitn.descriptors.policy import Use, check_use
from daitn.descriptors.terminals import Role
from daitn.node.readers.sources import open_reader
from daitn.node.site_files import load_column_map, load_contract, load_policy


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def files(home: Path) -> tuple[data.SiteFiles, ...]:
    return data.write_all(home / "data")


@pytest.fixture(scope="module")
def fitted(home: Path, files: tuple[data.SiteFiles, ...]) -> dict[tuple[str, str], Fitted]:
    def each() -> Iterator[tuple[tuple[str, str], Fitted]]:
        for one in files:
            reader, contract = open_reader(one.data), load_contract(one.contract)
            made = fit(contract, reader.columns(), reader.read(), load_column_map(one.column_map), home, bytes(32))
            yield (one.dataset, one.site), made

    return dict(each())


def label_mix(fitted: dict[tuple[str, str], Fitted], kind: str) -> dict[str, np.ndarray]:
    return {site: np.array(list(one.report.labels.values())) for (of, site), one in fitted.items() if of == kind}


def test_sites_make_the_network_the_issue_asks_for() -> None:
    hospitals = [site for site in SITES if set(site.roles) == {Role.DATA, Role.COMPUTE}]
    assert len(hospitals) >= 5
    assert [site.name for site in SITES if site.roles == (Role.DATA,)] == ["grove"]
    assert any(Role.COMPUTE in site.roles and Role.DATA not in site.roles for site in SITES)
    assert any(Role.VERIFICATION in site.roles for site in SITES)
    assert any(Role.AGGREGATOR in site.roles for site in SITES)


def held_out_shares_of_each_label_sum_to_one() -> None:
    for kind, labels in (("breast", 2), ("forms", 10)):
        shares = [one.shares for site in SITES for one in site.holdings if one.kind == kind]
        assert {len(one) for one in shares} == {labels}
        assert np.allclose(np.sum(shares, axis=0), 1.0)


def test_contracts_are_consistent_and_the_hexadecimal_one_takes_the_same_data() -> None:
    plain, wider = contracts.digits_contract(), contracts.digits_contract(hexadecimal=True)
    for contract in (contracts.breast_contract(), plain, wider):
        check_contract(contract)
    assert fits(wider, plain.columns, plain.fields, plain.group) == ()
    assert wider.field_names() == ("low-digits", "letters")


def test_every_record_of_the_source_is_at_one_site_or_among_the_new_samples(
    home: Path, files: tuple[data.SiteFiles, ...], fitted: dict[tuple[str, str], Fitted]
) -> None:
    forms = sum(label_mix(fitted, "forms").values())
    assert forms.tolist() == np.bincount(data.load_source("forms").labels).tolist()
    new = len(data.new_samples_file(home / "data").read_text().splitlines()) - 1
    breast = sum(one.report.records for (kind, _), one in fitted.items() if kind == "breast")
    assert breast + new == len(data.load_source("breast").labels)
    assert new >= data.NEW_SAMPLES


def test_every_file_maps_without_losing_a_row(fitted: dict[tuple[str, str], Fitted]) -> None:
    for one in fitted.values():
        assert one.report.dropped == {}
        assert one.report.rows == one.report.records
        assert all(fault.kind.value == "missing" for fault in one.report.faults)
    missing = {site for (kind, site), one in fitted.items() if kind == "breast" and one.report.rows_with_missing}
    assert missing == {"alder", "cedar", "elm"}


def test_every_format_is_another(files: tuple[data.SiteFiles, ...]) -> None:
    formats = [open_reader(one.data).format for one in files if one.dataset == "breast"]
    assert len(set(formats)) == 5
    assert {open_reader(one.data).format for one in files} >= {"imagefolder", "idx", "csv", "parquet", "jsonl", "npz"}


def test_units_and_codes_are_translated(fitted: dict[tuple[str, str], Fitted]) -> None:
    source = data.load_source("breast")
    low, high = source.values[:, 0].min(), source.values[:, 0].max()
    for site in ("alder", "elm", "birch"):
        radius = fitted["breast", site].table.numbers(["mean_radius"])[:, 0]
        kept = radius[~np.isnan(radius)]
        assert kept.min() >= low - 1e-6
        assert kept.max() <= high + 1e-6


def test_label_mixes_and_sizes_are_clearly_unequal(fitted: dict[tuple[str, str], Fitted]) -> None:
    for kind in ("breast", "forms"):
        mixes = label_mix(fitted, kind)
        whole = sum(mixes.values()) / sum(mix.sum() for mix in mixes.values())
        distances = [np.abs(mix / mix.sum() - whole).sum() / 2 for mix in mixes.values()]
        assert np.mean(distances) > 0.25
        sizes = [mix.sum() for mix in mixes.values()]
        assert max(sizes) > 2 * min(sizes)


def test_policies_allow_what_the_play_needs_and_elm_only_one_owner(files: tuple[data.SiteFiles, ...]) -> None:
    for one in files:
        policy = load_policy(one.policy)
        for owner in (BREAST_OWNER, DIGITS_OWNER):
            use = Use(owner=owner, purpose=PURPOSE, method="tram-fl", signer="", kind="train")
            refused = bool(check_use(policy, use))
            assert refused == (one.site == "elm" and one.dataset == "breast" and owner == DIGITS_OWNER)
        assert check_use(policy, Use(owner=BREAST_OWNER, purpose="advertising", method="", signer="", kind="train"))
        assert (policy.raw_records == "trust-zone") == (one.site == "grove")


def test_there_is_enough_to_train_and_to_verify_with(
    files: tuple[data.SiteFiles, ...], fitted: dict[tuple[str, str], Fitted]
) -> None:
    held = {"breast": 0, "forms": 0}
    for one in files:
        table, contract = fitted[one.dataset, one.site].table, load_contract(one.contract)
        sample = sample_rows(table, contract, load_policy(one.policy))
        assert len(training_rows(table, contract)) >= 30
        assert not set(sample.tolist()) & set(training_rows(table, contract).tolist())
        held[one.dataset] += len(sample)
    assert held["breast"] >= 80
    assert held["forms"] >= 300


def test_same_seed_writes_the_same_records(home: Path, files: tuple[data.SiteFiles, ...]) -> None:
    again = data.write_all(home / "again")
    for one, other in zip(files, again, strict=True):
        if one.data.suffix in (".csv", ".jsonl"):
            assert one.data.read_bytes() == other.data.read_bytes()
