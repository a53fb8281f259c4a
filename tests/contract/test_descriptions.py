"""One suite over every member of the description family: the laws in `describe.family.contract`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daitn.describe.column_map import ColumnMap
from daitn.describe.family import FAMILY
from daitn.describe.family.contract import NOISE_LIMIT, Facts, Item, Member, Part, Source
from daitn.describe.family.sketches import base_basis, numbers_for
from daitn.describe.fit import fit
from daitn.describe.mechanisms import make_share
from daitn.describe.statistics import count_records, described_items, descriptions, draw_release, measurable
from daitn.descriptors.contract import (
    CategoryColumn,
    Classification,
    DataContract,
    EmbeddedInput,
    IdentifierColumn,
    ImageColumn,
    NumberColumn,
    TextColumn,
    VectorColumn,
    check_contract,
)
from daitn.descriptors.descriptions import Description, Moments, Quantiles, Sketch, Synthetic
from daitn.descriptors.policy import Policy

every_member = pytest.mark.parametrize("member", FAMILY.values(), ids=lambda member: member.name)

SPEC = EmbeddedInput(name="t", column="note", base="a" * 64, width=12, length=8)
CONTRACT = DataContract(
    name="wards",
    columns=(
        NumberColumn(name="age", low=0, high=100, unit="a"),
        NumberColumn(name="free"),
        CategoryColumn(name="label", values=("well", "ill")),
        CategoryColumn(name="ward", values=("heart", "lung", "none")),
        TextColumn(name="note"),
        TextColumn(name="title"),
        ImageColumn(name="scan", channels=1, height=8, width=8),
        VectorColumn(name="trace", length=6),
        IdentifierColumn(name="who"),
    ),
    inputs=(SPEC,),
    task=Classification(label="label"),
    group="who",
    test_frac=1e-6,
)
check_contract(CONTRACT)
POLICY = Policy(describe=tuple(FAMILY), records_per_group=3, min_count=5)
BASES = (base_basis(SPEC),)


def make_source(folder: Path, groups: int, per_group: int = 4, seed: int = 0, policy: Policy = POLICY) -> Source:
    """Groups of a few records; the group numbered n is the same whatever `groups` is."""
    rows: dict[str, list[Any]] = {name: [] for name in ("age", "free", "label", "ward", "note", "title", "who")}
    scans, traces = [], []
    for group in range(groups):
        rng = np.random.default_rng((seed, group))
        for _ in range(per_group):
            ill = bool(rng.random() < 0.5)
            rows["age"].append(float(rng.normal(70 if ill else 40, 5)))
            rows["free"].append(float(rng.normal()))
            rows["label"].append("ill" if ill else "well")
            rows["ward"].append(("heart", "lung", "none")[int(rng.integers(3))])
            rows["note"].append(f"murmur valve {rng.integers(1000)}" if ill else f"checkup {rng.integers(1000)}")
            rows["title"].append("annual letter")
            rows["who"].append(f"p{group}")
            scans.append(rng.integers(0, 256, (1, 8, 8), dtype=np.uint8))
            traces.append(rng.normal(size=6).astype(np.float32))
    data: dict[str, Any] = {**rows, "scan": np.array(scans), "trace": np.array(traces)}
    types = {name: "number" if name in ("age", "free") else "text" for name in rows} | {
        "scan": "image",
        "trace": "vector",
    }
    fitted = fit(CONTRACT, types, [data], ColumnMap(), folder, b"s" * 32)
    # Vectors of a base follow from the text, so equal records have equal ones in any table.
    texts = fitted.table.texts("note")
    vectors = np.array(
        [np.random.default_rng(len(texts.text(row))).normal(size=12) for row in range(fitted.table.rows)], np.float16
    )
    return measurable(fitted.table, CONTRACT, policy, {BASES[0]: vectors})


def facts(source: Source) -> Facts:
    groups = int(source.group_of.max()) + 1
    return Facts(contract=CONTRACT, policy=POLICY, records=len(source.rows), groups=groups, key="k")


def part_of(member: Member, item: Item, integers: Sequence[int], epsilon: float = 1.0, sensitivity: int = 1) -> Part:
    return Part(
        member=item.member,
        column=item.column,
        basis=item.basis,
        share=make_share(sensitivity, epsilon),
        integers=tuple(integers),
    )


def without_noise(member: Member, source: Source) -> list[Description]:
    known = facts(source)
    found = []
    for item in member.items(CONTRACT, BASES):
        measured = member.measure(item, source, known.groups)
        part = part_of(member, item, measured.integers, sensitivity=measured.sensitivity)
        found.append(member.publish(part, known))
    assert None not in found
    return [one for one in found if one is not None]


@every_member
def test_member_is_listed_under_its_own_name_and_says_what_it_is(member: Member) -> None:
    assert FAMILY[member.name] is member
    assert member.what
    assert member.weight > 0


@every_member
def test_items_follow_from_the_contract_and_are_distinct(member: Member) -> None:
    items = member.items(CONTRACT, BASES)
    assert items == member.items(CONTRACT, BASES)
    assert items
    assert len({item.key for item in items}) == len(items)
    assert all(item.member == member.name for item in items)


@every_member
def test_how_many_integers_does_not_depend_on_the_records(member: Member, tmp_path: Path) -> None:
    one, other = make_source(tmp_path / "a", 30), make_source(tmp_path / "b", 41, seed=9)
    for item in member.items(CONTRACT, BASES):
        assert len(member.measure(item, one, 40).integers) == len(member.measure(item, other, 40).integers)


@every_member
@pytest.mark.parametrize("per_group", [1, 4])
def test_one_group_changes_the_integers_by_at_most_the_sensitivity(
    member: Member, per_group: int, tmp_path: Path
) -> None:
    full = make_source(tmp_path / "full", 25, per_group)
    for item in member.items(CONTRACT, BASES):
        measured = member.measure(item, full, 25)
        changed = 0
        for groups in (24, 20):
            less = make_source(tmp_path / f"{groups}", groups, per_group)
            other = member.measure(item, less, 25)
            change = sum(abs(a - b) for a, b in zip(measured.integers, other.integers, strict=True))
            assert change <= measured.sensitivity * (25 - groups)
            changed = max(changed, change)
        assert other.sensitivity == measured.sensitivity
        assert changed > 0


@every_member
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_any_noise_gives_a_finite_description_that_the_codec_takes(
    member: Member, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = _shared_source(tmp_path_factory)
    known = facts(source)
    for item in member.items(CONTRACT, BASES):
        measured = member.measure(item, source, known.groups)
        seed = data.draw(st.integers(0, 1 << 30))
        size = data.draw(st.sampled_from([1, 1000, 1 << 20, NOISE_LIMIT]))
        rng = np.random.default_rng(seed)
        noisy = [int(value) for value in rng.integers(-size, size + 1, len(measured.integers))]
        part = part_of(member, item, noisy, sensitivity=measured.sensitivity)
        found = member.publish(part, known)
        assert found == member.publish(part, known)
        if found is not None:
            again = msgspec.json.decode(msgspec.json.encode(found), type=Description)
            assert again == found
            assert _all_finite(msgspec.to_builtins(found))
            assert member.explain(found)


@every_member
def test_too_few_records_are_not_described(member: Member, tmp_path: Path) -> None:
    source = make_source(tmp_path, 20)
    known = facts(source)._replace(records=0, groups=0)
    for item in member.items(CONTRACT, BASES):
        measured = member.measure(item, source, 20)
        assert member.publish(part_of(member, item, measured.integers), known) is None


def test_moments_without_noise_are_those_of_the_records(tmp_path: Path) -> None:
    source = make_source(tmp_path, 60)
    (found,) = without_noise(FAMILY["moments"], source)
    assert isinstance(found, Moments)
    ages = source.table.numbers(["age"], source.rows)[:, 0]
    assert found.mean == pytest.approx(ages.mean(), abs=0.01)
    assert found.deviation == pytest.approx(ages.std(), abs=0.05)


def test_quantiles_without_noise_are_within_a_bin_of_the_records(tmp_path: Path) -> None:
    source = make_source(tmp_path, 200)
    (found,) = without_noise(FAMILY["quantiles"], source)
    assert isinstance(found, Quantiles)
    ages = source.table.numbers(["age"], source.rows)[:, 0]
    assert np.abs(np.array(found.values) - np.quantile(ages, found.shares)).max() < 1.5 * found.resolution
    assert list(found.values) == sorted(found.values)


def test_sketches_without_noise_tell_other_texts_from_like_ones(tmp_path: Path) -> None:
    near = [make_source(tmp_path / str(seed), 200, seed=seed) for seed in (1, 2)]
    ill = near[0]._replace(rows=near[0].rows[near[0].table.categories("label", near[0].rows) == 1])
    groups = np.unique(near[0].table.groups[ill.rows], return_inverse=True)[1]
    three = [near[0], near[1], ill._replace(group_of=groups.reshape(-1))]
    means = []
    for source in three:
        sketches = [one for one in without_noise(FAMILY["sketch"], source) if isinstance(one, Sketch)]
        assert {one.basis.partition("-")[0] for one in sketches} == {"base", "words", "pixels", "vector"}
        means.append(np.array(FAMILY["sketch"].measure(Item("sketch", "note", "words-1"), source, 200).integers))
    like, other = np.abs(means[0] - means[1]).sum(), np.abs(means[0] - means[2] * 200 / len(set(groups.tolist()))).sum()
    assert other > 3 * like


def test_few_groups_publish_few_numbers() -> None:
    assert [numbers_for(groups) for groups in (0, 20, 100, 191, 192, 10**6)] == [4, 4, 8, 8, 16, 16]


def test_synthetic_records_keep_the_relation_to_the_label_and_are_no_records(tmp_path: Path) -> None:
    source = make_source(tmp_path, 300)
    (found,) = without_noise(FAMILY["synthetic"], source)
    assert isinstance(found, Synthetic)
    assert found.columns == ("label", "age", "ward")
    ages = {word: [float(row[1]) for row in found.cells if row[0] == word and row[1]] for word in ("ill", "well")}
    assert np.mean(ages["ill"]) - np.mean(ages["well"]) == pytest.approx(30, abs=6)
    assert {row[2] for row in found.cells} <= {"heart", "lung", "none", ""}


def test_members_share_the_budget_and_it_adds_up(tmp_path: Path) -> None:
    source = make_source(tmp_path, 60)
    counts = count_records(source.table, CONTRACT, POLICY)
    release = draw_release("k", counts, CONTRACT, POLICY, 0.5, lambda c, s, e: list(c), source=source, bases=BASES)
    wanted = described_items(CONTRACT, POLICY, BASES)
    assert [part.item for part in release.parts] == [item for _, item in wanted]
    spent = math.fsum(share.epsilon for share in release.shares.values())
    assert spent + math.fsum(part.share.epsilon for part in release.parts) == pytest.approx(0.5)
    published = descriptions(release, CONTRACT, POLICY)
    assert {type(one) for one in published} == {Moments, Quantiles, Sketch, Synthetic}


def test_noise_of_a_sketch_has_the_stated_spread(tmp_path: Path) -> None:
    pytest.importorskip("opendp", reason="the mechanism is OpenDP's")
    source = make_source(tmp_path, 60)
    policy = msgspec.structs.replace(POLICY, describe=("sketch",))
    counts = count_records(source.table, CONTRACT, policy)
    exact = draw_release("k", counts, CONTRACT, policy, 4.0, lambda c, s, e: list(c), source=source)
    sums = np.array([value for part in exact.parts for value in part.integers], dtype=float)
    stds = np.array([part.share.noise_std for part in exact.parts for _ in part.integers])
    drawn = []
    for _ in range(40):
        release = draw_release("k", counts, CONTRACT, policy, 4.0, source=source)
        noisy = np.array([value for part in release.parts for value in part.integers][: len(sums)], dtype=float)
        if len(noisy) == len(sums):
            drawn.append((noisy - sums) / stds)
    spread = np.concatenate(drawn)
    # Laplace noise has kurtosis 6; seven standard errors fail once in 10^11 runs.
    assert abs(spread.var() - 1) < 7 * math.sqrt(5 / len(spread))
    assert abs(spread.mean()) < 7 / math.sqrt(len(spread))


_SOURCES: list[Source] = []


def _shared_source(factory: pytest.TempPathFactory) -> Source:
    if not _SOURCES:
        _SOURCES.append(make_source(factory.mktemp("descriptions"), 40))
    return _SOURCES[0]


def _all_finite(value: Any) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(_all_finite(one) for one in value.values())
        case list() | tuple():
            return all(_all_finite(one) for one in value)
    return True
