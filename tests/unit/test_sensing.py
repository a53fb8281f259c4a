"""Sensing: appended records are noticed, read again and counted exactly at the site; what is published are differences
of releases, and an append alone publishes nothing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.system.small_domain import write_site

from daitn.base.errors import InputError
from daitn.base.ids import DataSetId
from daitn.describe.dynamics import Released, dynamics_of, is_another
from daitn.node.data_watch import DataWatch, ReleasedDynamics, keep_sensed, read_sensed
from daitn.node.datasets import DataShelf
from daitn.node.site_files import load_contract, load_policy
from daitn.tools.sensing import DataMeasured, DataRemoved, SensingService, arrival_per_day, stability_index

DAY_NS = 86_400 * 1_000_000_000
NOW_NS = 1_700_000_000 * 1_000_000_000
DATA = DataSetId("site/sides")


def measured(rows: int, left: int, *, appended: bool = True) -> DataMeasured:
    return DataMeasured(dataset=DATA, rows=rows, labels={"left": left, "right": rows - left}, appended=appended)


def test_arrival_rate_is_that_of_usual_days_whatever_one_bulk_load_did():
    readings, rows = [], 1000
    for day in range(20):
        rows += 10_000 if day == 9 else 50
        readings.append((NOW_NS + day * DAY_NS, rows))

    assert arrival_per_day(readings[:9]) == pytest.approx(50)
    assert arrival_per_day(readings[10:]) == pytest.approx(50)
    assert arrival_per_day(readings[:1]) is None


def test_drift_is_that_of_what_came_against_what_was_there():
    service = SensingService()
    service.handle(measured(1000, 500, appended=False), NOW_NS)
    service.handle(measured(1200, 600), NOW_NS + DAY_NS)
    (same,) = service.view().data
    service.handle(measured(2000, 620), NOW_NS + 2 * DAY_NS)
    (other,) = service.view().data

    assert same.drift < 0.01
    assert other.drift > 0.25
    assert (other.rows, other.appended, other.readings) == (2000, 1000, 3)
    assert stability_index({"a": 50, "b": 50}, {"a": 50, "b": 50}) == 0


def test_data_that_was_replaced_begins_anew_and_data_that_is_gone_is_forgotten():
    service = SensingService()
    service.handle(measured(1000, 500, appended=False), NOW_NS)
    service.handle(measured(900, 100, appended=False), NOW_NS + DAY_NS)
    (now,) = service.view().data
    assert (now.rows, now.appended, now.drift) == (900, 0, None)

    service.handle(DataRemoved(dataset=DATA), NOW_NS)
    assert service.view().data == ()


def released(at_ns: int, left: float, right: float, noise_std: float = 0.0) -> Released:
    return Released(at_ns=at_ns, records=left + right, labels={"left": left, "right": right}, noise_std=noise_std)


def test_dynamics_are_differences_of_releases_with_their_noise():
    found = dynamics_of([released(NOW_NS, 500, 500, 10.0), released(NOW_NS + 30 * DAY_NS, 900, 700, 10.0)])

    assert found.arrival_per_day == pytest.approx(20)
    assert found.arrival_std_per_day == pytest.approx(20 / 30)
    assert found.drift == pytest.approx(0.0158, abs=0.001)
    assert 0 < found.drift_noise < 0.001
    assert dynamics_of([released(NOW_NS, 1, 1)]) is None


def test_drift_that_noise_makes_is_what_is_said_of_it_in_the_mean():
    import numpy as np

    rng = np.random.default_rng(5)
    made, told = [], []
    for _ in range(2000):
        pairs = [np.array([400.0, 600.0]) + rng.laplace(scale=10.0, size=2) for _ in range(2)]
        releases = [released(NOW_NS + day * DAY_NS, *pair, noise_std=10.0 * 2**0.5) for day, pair in enumerate(pairs)]
        found = dynamics_of(releases)
        made.append(found.drift)
        told.append(found.drift_noise)

    # Shares add up to one, so of k free counts only k - 1 move them: what is said is an upper estimate.
    assert np.mean(made) <= np.mean(told) <= 2.5 * np.mean(made)


def test_same_values_again_are_the_same_release():
    assert not is_another([released(NOW_NS, 5, 5)], released(NOW_NS + DAY_NS, 5, 5))
    assert is_another([released(NOW_NS, 5, 5)], released(NOW_NS + DAY_NS, 5, 6))


@pytest.fixture
def site(tmp_path: Path):
    """A shelf with one data set, its watch, and what the watch told."""
    files = write_site(tmp_path / "source", 0)
    shelf = DataShelf(tmp_path / "shelf", bytes(32), noise=lambda counts, *_: list(counts))
    from daitn.describe.column_map import ColumnMap

    shelf.add("sides", files.data, load_contract(files.contract), load_policy(files.policy), ColumnMap())
    told: list = []
    return shelf, DataWatch(shelf, "site", told.append), files.data, told


def append(path: Path, count: int) -> None:
    with path.open("a") as file:
        file.write("0.5,0.5,right\n" * count)


def test_appended_records_are_read_again_once_they_stand_still(site):
    shelf, watch, source, told = site
    assert watch.look() == ()
    assert [(one.rows, one.appended) for one in told] == [(240, False)]

    append(source, 30)
    assert watch.look() == (), "perhaps still being written"
    append(source, 1)
    assert watch.look() == ()
    assert watch.look() == ("sides",)

    assert (told[-1].rows, told[-1].appended) == (271, True)
    assert told[-1].labels["right"] - told[0].labels["right"] == 31
    assert shelf.table("sides").rows == 271
    shelf.check_unchanged("sides")
    assert watch.look() == ()


def test_source_that_was_changed_and_not_appended_to_is_left_to_its_owner(site):
    shelf, watch, source, told = site
    watch.look()
    text = source.read_text()
    source.write_text(text.replace("left", "right", 1) + "0.5,0.5,right\n" * 9)

    for _ in range(3):
        assert watch.look() == ()

    assert len(told) == 1
    assert watch._counters.shown() == {"data_sets_refused": 1}
    with pytest.raises(InputError, match="changed"):
        shelf.check_unchanged("sides")


def test_rows_that_do_not_fit_leave_the_data_set_as_it_was(site):
    shelf, watch, source, _ = site
    watch.look()
    version = shelf.entry("sides").version
    with source.open("ab") as file:
        file.write(b"\xff\xfe,1,right\n")

    for _ in range(3):
        watch.look()

    assert shelf.table("sides").rows == 240
    assert shelf.entry("sides").version == version
    assert watch._counters.shown() == {"data_sets_refused": 1}


def test_what_is_published_changes_with_releases_and_spends_nothing_itself(site, tmp_path):
    shelf, *_ = site
    days = [NOW_NS]
    book = ReleasedDynamics(tmp_path, clock=lambda: days[0])
    first = book.with_dynamics("sides", shelf.descriptor("sides", "site"))
    assert first.dynamics is None
    spent = len(shelf.ledger().records())
    days[0] += 10 * DAY_NS
    assert book.with_dynamics("sides", shelf.descriptor("sides", "site")).dynamics is None, "the same release"
    assert len(shelf.ledger().records()) == spent

    labels = msgspec.structs.replace(first.labels, counts={"left": 200.0, "right": 240.0})
    released_again = msgspec.structs.replace(first, records=440.0, labels=labels)
    again = ReleasedDynamics(tmp_path, clock=lambda: days[0])  # durable: another process goes on
    found = again.with_dynamics("sides", released_again).dynamics

    assert found.over_days == pytest.approx(10)
    assert found.arrival_per_day == pytest.approx((440 - sum(first.labels.counts.values())) / 10)
    assert len(shelf.ledger().records()) == spent


def test_what_was_sensed_is_kept_for_the_site_alone_and_damage_is_named(tmp_path):
    service = SensingService()
    service.handle(measured(10, 5, appended=False), NOW_NS)
    keep_sensed(tmp_path, service.view())

    assert read_sensed(tmp_path) == service.view()
    assert (tmp_path / "sensed.json").stat().st_mode & 0o077 == 0
    (tmp_path / "sensed.json").write_bytes(b"{")
    with pytest.raises(InputError, match="does not decode"):
        read_sensed(tmp_path)
    with pytest.raises(InputError, match="nothing was sensed"):
        read_sensed(tmp_path / "elsewhere")
