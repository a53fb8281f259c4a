"""One suite over every route rule: the laws in `decision.routes.contract`, and Tram-FL's rule against an oracle."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from statistics import median

import pytest
from tests.builders import changed, make_candidate, make_view

from daitn.base.ids import DataSetId, NodeId
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen, best_compute
from daitn.decision.routes.tram_fl import TramFl
from daitn.decision.routes.tram_fl_cycles import UNITS, allocate
from daitn.descriptors.view import Candidate, TrainingView

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)


def random_view(rng: random.Random) -> TrainingView:
    """One to six data sets of unequal labels, some with several places to train."""
    candidates: list[Candidate] = []
    for number in range(rng.randint(1, 6)):
        labels = {str(label): float(rng.randint(0, 300)) for label in range(4) if rng.random() < 0.7}
        for place in range(rng.randint(1, 2)):
            candidates.append(
                make_candidate(
                    f"s{number}",
                    labels,
                    compute_node=NodeId(f"m{place}"),
                    flops=rng.choice((1e9, 1e10)),
                    batch_s=rng.choice((None, 0.1, 0.2)),
                )
            )
    return make_view(*candidates)


def walk(rule, view: TrainingView, length: int, seed: int = 0) -> list[DataSetId]:
    """Where a model goes, each visit as planned."""
    seen = Seen(seed=seed)
    for _ in range(length):
        stop = rule.next_stop(view, seen, 64)
        assert stop is not None
        seen = Seen(visits=(*seen.visits, (stop.dataset, 64)), seed=seed)
    return [dataset for dataset, _ in seen.visits]


@every_rule
def test_rule_is_listed_under_its_own_name(rule):
    assert RULES[rule.name] is rule


@every_rule
def test_rule_stops_at_a_candidate_whenever_there_is_one_and_says_why(rule):
    for seed in range(60):
        view = random_view(random.Random(seed))
        pairs = {(one.dataset, one.compute_node) for one in view.candidates}
        gone = Seen(visits=((DataSetId("gone/records"), 64), (view.candidates[0].dataset, 64)), seed=seed)
        for seen in (Seen(seed=seed), gone):
            stop = rule.next_stop(view, seen, 64)
            assert stop is not None
            assert (stop.dataset, stop.compute_node) in pairs
            assert stop.why


@every_rule
def test_rule_without_candidates_has_no_stop(rule):
    assert rule.next_stop(make_view(), Seen(), 64) is None


@every_rule
def test_rule_gives_equal_stops_for_equal_arguments_in_any_order_of_candidates(rule):
    for seed in range(30):
        rng = random.Random(seed)
        view = random_view(rng)
        mixed = list(view.candidates)
        rng.shuffle(mixed)
        other = changed(view, candidates=tuple(mixed), version=view.version + 1)
        assert walk(rule, view, 8, seed) == walk(rule, other, 8, seed) == walk(rule, view, 8, seed)


@every_rule
def test_rule_reaches_every_data_set_in_time(rule):
    view = make_view(*(make_candidate(f"s{number}", {str(number): 50.0}) for number in range(4)))

    assert set(walk(rule, view, 60)) == {one.dataset for one in view.candidates}


@every_rule
def test_rule_takes_no_visits_or_records_amiss(rule):
    view = make_view(make_candidate("s1", {}), make_candidate("s2", {"0": 0.0}, records=0.0))

    assert rule.next_stop(view, Seen(visits=((DataSetId("s1/records"), 0),) * 3), 0) is not None


def test_best_compute_prefers_home_then_measured_then_fast():
    slow, fast = make_candidate("s", compute_node="slow", flops=1e9), make_candidate("s", compute_node="fast")
    measured = make_candidate("s", compute_node="measured", flops=1.0, batch_s=9.0)
    away = make_candidate("s", compute_node="away", streamed=True, batch_s=0.001)

    for order in itertools.permutations((slow, fast, measured, away)):
        assert best_compute(make_view(*order), DataSetId("s/records")).compute_node == "measured"
    assert best_compute(make_view(slow, fast, away), DataSetId("s/records")).compute_node == "fast"
    assert best_compute(make_view(away), DataSetId("s/records")).compute_node == "away"


def test_cyclic_takes_all_in_order_and_goes_on_where_one_is_gone():
    view = make_view(*(make_candidate(name) for name in "bca"))
    assert walk(RULES["cyclic"], view, 4) == ["a/records", "b/records", "c/records", "a/records"]

    without_b = make_view(make_candidate("a"), make_candidate("c"))
    stop = RULES["cyclic"].next_stop(without_b, Seen(visits=((DataSetId("b/records"), 1),)), 1)
    assert stop is not None
    assert stop.dataset == "c/records"


def test_random_draws_with_the_seed_of_the_job():
    view = make_view(*(make_candidate(f"s{number}") for number in range(5)))
    walks = {tuple(walk(RULES["random"], view, 12, seed)) for seed in range(10)}

    assert len(walks) == 10


def least_variance(view: TrainingView, visits: list[tuple[DataSetId, int]], records: int) -> dict[DataSetId, float]:
    """Tram-FL's rule, plainly: the variance of label counts after each possible next visit (Maejima et al., eq. 5)."""
    labels = sorted({label for one in view.candidates for label in one.labels})
    mixes = {one.dataset: one.labels for one in view.candidates}

    def expected(dataset: DataSetId, count: int) -> Counter[str]:
        total = sum(mixes[dataset].values())
        return Counter({label: count * held / total for label, held in mixes[dataset].items()} if total else {})

    found: dict[DataSetId, float] = {}
    for dataset in mixes:
        counts: Counter[str] = expected(dataset, records)
        for before, read in visits:
            counts.update(expected(before, read))
        mean = sum(counts[label] for label in labels) / len(labels)
        found[dataset] = sum((counts[label] - mean) ** 2 for label in labels) / len(labels)
    return found


def test_tram_fl_minimises_the_variance_of_labels_seen_as_the_oracle_does():
    for seed in range(80):
        rng = random.Random(seed)
        view = random_view(rng)
        if not any(one.labels for one in view.candidates):
            continue
        names = sorted({one.dataset for one in view.candidates})
        visits = [(rng.choice(names), rng.choice((32, 64))) for _ in range(rng.randint(0, 6))]

        stop = TramFl().next_stop(view, Seen(visits=tuple(visits)), 64)

        wanted = least_variance(view, visits, 64)
        if visits and len(names) > 1:  # the one difference: it does not stay while there is anywhere else to go
            wanted.pop(visits[-1][0])
        assert stop is not None
        assert wanted[stop.dataset] == pytest.approx(min(wanted.values()), abs=1e-4), f"seed {seed}"


def test_tram_fl_without_labels_goes_where_least_was_read_for_the_size():
    view = make_view(make_candidate("big", {}, records=1000.0), make_candidate("small", {}, records=100.0))
    seen = Seen(visits=((DataSetId("big/records"), 200), (DataSetId("small/records"), 100)))

    stop = TramFl().next_stop(view, seen, 64)

    assert stop is not None
    assert stop.dataset == "big/records"


def test_tram_fl_on_many_sites_and_visits_stays_cheap():
    view = make_view(*(make_candidate(f"s{number}", {str(n): 10.0 for n in range(10)}) for number in range(300)))
    lookups = 0

    class Counting(dict):
        def items(self):
            nonlocal lookups
            lookups += 1
            return super().items()

    counted = changed(view, candidates=tuple(changed(one, labels=Counting(one.labels)) for one in view.candidates))
    seen = Seen(visits=tuple((DataSetId(f"s{number % 300}/records"), 64) for number in range(10_000)))

    assert TramFl().next_stop(counted, seen, 64) is not None
    assert lookups <= 2 * len(view.candidates)


def worth_after(view: TrainingView, visits: list[tuple[DataSetId, int]], dataset: DataSetId, records: int) -> float:
    """Routed's rule, plainly: fade and add, visit by visit, then the mean logarithms."""
    mixes = {one.dataset: one.labels for one in view.candidates}
    labels = sorted({label for mix in mixes.values() for label in mix if mix[label] > 0.005 * sum(mix.values())})
    exposure: Counter[str] = Counter()
    read: Counter[str] = Counter()
    total = 0.0
    for name, length in [*visits, (dataset, records)]:
        keep = 0.9 ** (length / records)
        exposure = Counter({label: keep * exposure[label] for label in labels})
        read = Counter({one: keep * read[one] for one in mixes})
        total = keep * total + 1 - keep
        read[name] += 1 - keep
        held = {label: count for label, count in mixes[name].items() if count > 0.005 * sum(mixes[name].values())}
        for label, count in held.items():
            exposure[label] += (1 - keep) * count / sum(mixes[name].values())
    by_label = sum(math.log(exposure[label] / total + 0.01) for label in labels) / len(labels) if labels else 0.0
    sizes = {one.dataset: one.records for one in view.candidates}
    weight = min(0.5, max(0.02, records / median(sizes.values()) - 0.5)) if median(sizes.values()) else 0.5
    return by_label + weight * sum(math.log(read[one] / total + 0.01) for one in mixes) / len(mixes)


def test_routed_leaves_labels_freshest_as_the_oracle_does():
    for seed in range(80):
        rng = random.Random(seed)
        view = random_view(rng)
        view = changed(view, candidates=tuple(changed(one, batch_s=None) for one in view.candidates))
        names = sorted({one.dataset for one in view.candidates})
        visits = [(rng.choice(names), 64) for _ in range(rng.randint(0, 9))]

        stop = RULES["routed"].next_stop(view, Seen(visits=tuple(visits)), 64)

        wanted = {name: worth_after(view, visits, name, 64) for name in names}
        assert stop is not None
        assert wanted[stop.dataset] == pytest.approx(max(wanted.values()), abs=1e-8), f"seed {seed}"


def test_routed_goes_back_for_what_fades_where_counts_of_old_would_be_even():
    view = make_view(make_candidate("a", {"0": 50.0}), make_candidate("b", {"1": 50.0}))
    long_ago = ((DataSetId("a/records"), 64),) * 6 + ((DataSetId("b/records"), 64),) * 6

    stop = RULES["routed"].next_stop(view, Seen(visits=long_ago), 64)

    assert stop is not None
    assert stop.dataset == "a/records"
    assert "'0'" in stop.why


def test_routed_takes_the_trusted_and_the_reachable_of_two_alike():
    for better in ({"trust": 0.9}, {"availability": 0.9}):
        worse = dict.fromkeys(better, 0.4)
        view = make_view(make_candidate("a", {"0": 50.0}, **worse), make_candidate("b", {"0": 50.0}, **better))

        assert walk(RULES["routed"], view, 1) == ["b/records"]


def test_routed_visits_a_slow_site_less_and_still_for_what_it_alone_has():
    labels = {str(label): 50.0 for label in range(4)}
    alike = make_view(make_candidate("a", labels, batch_s=1.0), make_candidate("b", labels, batch_s=0.01))
    alone = make_view(make_candidate("a", {"0": 50.0}, batch_s=0.05), make_candidate("b", {"1": 50.0}, batch_s=0.01))

    assert Counter(walk(RULES["routed"], alike, 20))["a/records"] == 0
    assert Counter(walk(RULES["routed"], alone, 20))["a/records"] >= 5


def test_routed_comes_back_to_a_slow_site_for_a_label_that_nobody_else_holds():
    """A split of the digits, slow where the only 7 is, which was read in the first round and never again."""
    held = ("12457", "23469", "134", "058", "0124")
    slow = {"s0": 1.0}
    sites = (
        make_candidate(f"s{number}", dict.fromkeys(labels, 50.0), batch_s=slow.get(f"s{number}", 0.2))
        for number, labels in enumerate(held)
    )
    visited = walk(RULES["routed"], make_view(*sites), 40)

    places = [place for place, name in enumerate(visited) if name == "s0/records"]
    gaps = [after - before for before, after in zip(places, [*places[1:], 40], strict=True)]
    assert len(places) >= 3
    assert max(gaps) <= 16
    assert len(places) < min(Counter(visited)[f"s{number}/records"] for number in (1, 3))


def test_routed_is_not_kept_by_one_site_that_has_every_label():
    view = make_view(*(make_candidate(f"s{number}", {"0": 50.0, "1": 50.0}) for number in range(4)))

    visits = Counter(walk(RULES["routed"], view, 40))

    assert min(visits.values()) >= 6


def test_routed_goes_on_where_a_visit_reads_a_site_through_and_stays_where_it_does_not():
    rich, poor = dict.fromkeys("0123456789", 10.0), {"0": 100.0}
    view = make_view(make_candidate("rich", rich), make_candidate("poor", poor))

    def second(records: int) -> DataSetId:
        stop = RULES["routed"].next_stop(view, Seen(visits=((DataSetId("rich/records"), records),)), records)
        assert stop is not None
        return stop.dataset

    assert [second(10), second(200)] == ["rich/records", "poor/records"]


def test_routed_without_labels_goes_round():
    view = make_view(*(make_candidate(name, {}) for name in "abc"))

    assert set(walk(RULES["routed"], view, 3)) == {one.dataset for one in view.candidates}


def test_routed_on_many_sites_and_visits_looks_at_each_once():
    view = make_view(*(make_candidate(f"s{number}", {str(n): 10.0 for n in range(10)}) for number in range(300)))
    lookups = 0

    class Counting(dict):
        def items(self):
            nonlocal lookups
            lookups += 1
            return super().items()

    counted = changed(view, candidates=tuple(changed(one, labels=Counting(one.labels)) for one in view.candidates))
    seen = Seen(visits=tuple((DataSetId(f"s{number % 300}/records"), 64) for number in range(10_000)))

    assert RULES["routed"].next_stop(counted, seen, 64) is not None
    assert lookups <= len(view.candidates)


# --- greedy, Tram-FL in cycles, load-aware Tram-FL --------------------------------------------------------------------


def least_spread(mix: list[list[float]], units: int) -> float:
    """The least variance of labels that whole units can have, by trying all."""
    best = math.inf
    for parts in itertools.product(range(units + 1), repeat=len(mix)):
        if sum(parts) == units:
            read = [
                sum(part * row[label] for part, row in zip(parts, mix, strict=True)) for label in range(len(mix[0]))
            ]
            mean = sum(read) / len(read)
            best = min(best, sum((one - mean) ** 2 for one in read) / len(read))
    return best


def test_cycles_are_allocated_as_evenly_as_units_allow():
    for seed in range(25):
        rng = random.Random(seed)
        rows = [[rng.choice((0, 0, 1, 2, 3)) for _ in range(4)] for _ in range(3)]
        rows = [row if any(row) else [1, 0, 0, 0] for row in rows]
        mix = [[one / sum(row) for one in row] for row in rows]
        parts = allocate(tuple(tuple((str(label), one) for label, one in enumerate(row) if one) for row in mix))
        read = [sum(part * row[label] for part, row in zip(parts, mix, strict=True)) for label in range(4)]
        mean = sum(read) / 4

        assert sum(parts) == UNITS
        assert sum((one - mean) ** 2 for one in read) / 4 <= least_spread(mix, UNITS) + 1e-6 + 0.02 * mean**2


def test_cycle_goes_from_the_longest_visit_to_the_shortest_and_on_from_where_it_ended():
    view = make_view(
        make_candidate("a", {"0": 60.0, "1": 40.0}),
        make_candidate("b", {"2": 100.0}),
        make_candidate("c", {"3": 70.0, "4": 20.0, "5": 10.0}),
    )
    rule, seen, stops = RULES["tram-fl-2"], Seen(), []
    for _ in range(9):
        stops.append(rule.next_stop(view, seen, 100))
        seen = Seen(visits=(*seen.visits, (stops[-1].dataset, round(100 * stops[-1].length))))
    names = [stop.dataset[0] for stop in stops]
    lengths = {stop.dataset[0]: stop.length for stop in stops}

    assert [sorted(names[i : i + 3]) for i in (0, 3, 6)] == [["a", "b", "c"]] * 3
    assert names[2] == names[3]
    assert names[5] == names[6]
    assert sum(lengths.values()) == pytest.approx(3)
    assert [lengths[name] for name in names[:3]] == sorted(lengths.values(), reverse=True)


def test_cycle_goes_on_with_what_is_left_where_a_site_is_gone():
    view = make_view(*(make_candidate(name, {name: 10.0}) for name in "abc"))
    less = make_view(*view.candidates[:2])
    seen = Seen(visits=((DataSetId("a/records"), 100), (DataSetId("c/records"), 100)))

    stop = RULES["tram-fl-2"].next_stop(less, seen, 100)

    assert stop is not None
    assert stop.dataset == "b/records"


def test_greedy_takes_most_freshening_a_second_and_the_slow_site_when_it_brings_most():
    view = make_view(make_candidate("a", {"0": 50.0}, batch_s=1.0), make_candidate("b", {"1": 50.0}, batch_s=0.1))

    first = walk(RULES["greedy"], view, 30)

    assert first[0] == "b/records"
    assert 0 < Counter(first)["a/records"] < 10


def test_best_compute_is_where_a_visit_waits_least_for_a_slot_unless_that_is_much_slower():
    def lab(name: str, **facts: float | None) -> Candidate:
        return make_candidate("s", {}, compute_node=NodeId(name), streamed=True, **facts)

    for timed in ({"batch_s": 0.1}, {}):
        busy, free = lab("busy", wait_s=20.0, **timed), lab("free", **timed)
        assert best_compute(make_view(busy, free), DataSetId("s/records")).compute_node == "free"
    quick = lab("quick", batch_s=0.1, wait_s=20.0)
    assert best_compute(make_view(quick, lab("slow", batch_s=0.5)), DataSetId("s/records")).compute_node == "quick"
    fast = lab("fast", flops=1e12, wait_s=20.0)
    assert best_compute(make_view(fast, lab("slow", flops=1e10)), DataSetId("s/records")).compute_node == "fast"


def test_load_aware_takes_the_quickest_that_keeps_labels_even():
    alike = make_view(make_candidate("a", batch_s=1.0), make_candidate("b", batch_s=0.1))
    apart = make_view(make_candidate("a", {"0": 9.0}, batch_s=1.0), make_candidate("b", {"1": 9.0}, batch_s=0.1))
    away = make_view(make_candidate("a", availability=1.0), make_candidate("b", availability=0.2))
    bare = make_view(make_candidate("a", {}, batch_s=1.0), make_candidate("b", {}, records=64.0, batch_s=0.1))

    assert set(walk(RULES["tram-fl-load"], alike, 10)) == {"b/records"}
    assert Counter(walk(RULES["tram-fl-load"], apart, 20))["a/records"] in (9, 10)
    assert walk(RULES["tram-fl-load"], away, 1) == ["a/records"]
    assert "a/records" in walk(RULES["tram-fl-load"], bare, 3)
