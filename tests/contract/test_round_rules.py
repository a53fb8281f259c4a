"""One suite over every round rule: the laws in `decision.rounds.contract`, and what Oort's selection is known for."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from tests.builders import changed, make_candidate, make_view

from daitn.base.ids import DataSetId, NodeId
from daitn.decision.rounds import ROUND_RULES
from daitn.decision.rounds.contract import Rounds, SiteReport
from daitn.decision.rounds.oort import EXPLORE_LEAST, preferred_seconds, utilities_of
from daitn.decision.routes.planned import places_of
from daitn.descriptors.view import TrainingView

every_rule = pytest.mark.parametrize("rule", ROUND_RULES.values(), ids=lambda rule: rule.name)


def random_view(rng: random.Random) -> TrainingView:
    """One to twelve data sets, some with several places to train."""
    return make_view(
        *(
            make_candidate(f"s{number}", compute_node=NodeId(f"m{place}"), batch_s=rng.choice((None, 0.1, 0.2)))
            for number in range(rng.randint(1, 12))
            for place in range(rng.randint(1, 2))
        )
    )


def report(name: str, number: int = 0, **changes) -> SiteReport:
    values = {"dataset": DataSetId(f"{name}/records"), "round": number, "loss": 1.0, "records": 100, "seconds": 1.0}
    return SiteReport(**(values | changes))


def some_rounds(rng: random.Random) -> Rounds:
    """Up to twenty rounds, also of sites that are gone, with losses of all kinds."""
    many = rng.randint(0, 20)
    losses = (0.1, 1.0, 5.0, 0.0, float("nan"), float("inf"))
    reports = tuple(
        report(f"s{rng.randint(0, 14)}", number, loss=rng.choice(losses), seconds=rng.choice((0.0, 0.5, 9.0)))
        for number in range(many)
        for _ in range(rng.randint(0, 3))
    )
    return Rounds(reports=reports, round=many, seed=rng.randint(0, 9))


@every_rule
def test_rule_is_listed_under_its_own_name(rule):
    assert ROUND_RULES[rule.name] is rule


@every_rule
def test_rule_takes_candidates_once_each_and_no_more_than_asked_for(rule):
    for seed in range(80):
        rng = random.Random(seed)
        view, rounds, most = random_view(rng), some_rounds(rng), rng.randint(1, 8)
        stops = rule.choose(view, rounds, most)
        pairs = {(one.dataset, one.compute_node) for one in view.candidates}

        assert 1 <= len(stops) <= most
        assert len({stop.dataset for stop in stops}) == len(stops)
        assert {(stop.dataset, stop.compute_node) for stop in stops} <= pairs
        assert all(stop.why for stop in stops)


@every_rule
def test_rule_gives_equal_stops_for_equal_arguments_in_any_order_of_candidates(rule):
    for seed in range(40):
        rng = random.Random(seed)
        view, rounds = random_view(rng), some_rounds(rng)
        mixed = list(view.candidates)
        rng.shuffle(mixed)

        assert rule.choose(view, rounds, 5) == rule.choose(changed(view, candidates=tuple(mixed)), rounds, 5)


@every_rule
def test_rule_without_candidates_takes_nobody(rule):
    assert rule.choose(make_view(), Rounds(), 5) == ()


@every_rule
def test_rule_comes_to_every_site_in_time(rule):
    view = make_view(*(make_candidate(f"s{number}") for number in range(9)))
    reports: tuple[SiteReport, ...] = ()
    for number in range(40):
        stops = rule.choose(view, Rounds(reports=reports, round=number, seed=1), 4)
        reports += tuple(changed(report("x", number), dataset=stop.dataset) for stop in stops)

    assert {one.dataset for one in reports} == {one.dataset for one in view.candidates}


def test_everyone_begins_elsewhere_where_not_all_can_come():
    view = make_view(*(make_candidate(f"s{number}") for number in range(5)))

    def names(number: int) -> list[str]:
        return [stop.dataset[:2] for stop in ROUND_RULES["all"].choose(view, Rounds(round=number), 2)]

    assert [names(number) for number in range(3)] == [["s0", "s1"], ["s2", "s3"], ["s4", "s0"]]


def known(count: int, **odd) -> tuple[TrainingView, Rounds]:
    """Sites that have all reported; the first reported something odd."""
    view = make_view(*(make_candidate(f"s{number}") for number in range(count)))
    reports = (report("s0", 9, **odd), *(report(f"s{number}", 9) for number in range(1, count)))
    return view, Rounds(reports=reports, round=10)


def test_utility_grows_with_loss_and_records_and_falls_where_a_site_is_slow():
    def first(**odd) -> float:
        view, rounds = known(4, **odd)
        newest = {one.dataset: one for one in rounds.reports}
        found = utilities_of(places_of(view), newest, rounds)
        return found[DataSetId("s0/records")] / found[DataSetId("s1/records")]

    assert first() == pytest.approx(1)
    assert first(loss=0.2) < 1
    assert first(records=400) > 1
    assert first(seconds=0.5) == pytest.approx(1)
    assert first(seconds=10.0) < 0.1
    assert first(round=0) > 1
    assert first(loss=float("nan")) < 1


def test_one_odd_loss_is_clipped():
    def rewards(loss: float) -> float:
        view, rounds = known(40, loss=loss)
        found = utilities_of(places_of(view), {one.dataset: one for one in rounds.reports}, rounds)
        return found[DataSetId("s0/records")] - found[DataSetId("s1/records")]

    assert rewards(1e6) == pytest.approx(0, abs=1e-3)


def test_sites_that_lose_most_are_taken_most_and_slow_ones_least():
    view = make_view(*(make_candidate(f"s{number}") for number in range(8)))
    losses = {f"s{number}": 2.0 if number < 3 else 0.2 for number in range(8)}
    taken: Counter[str] = Counter()
    for seed in range(40):
        reports = tuple(
            report(name, 30, loss=loss, seconds=50.0 if name == "s0" else 1.0) for name, loss in losses.items()
        )
        stops = ROUND_RULES["oort"].choose(view, Rounds(reports=reports, round=31, seed=seed), 3)
        taken.update(stop.dataset[:2] for stop in stops)

    usual = max(taken[f"s{number}"] for number in range(3, 8))
    assert min(taken["s1"], taken["s2"]) >= 30 > usual
    assert taken["s0"] <= usual


def test_newcomers_have_their_share_of_each_round():
    view = make_view(*(make_candidate(f"s{number}") for number in range(20)))
    reports = tuple(report(f"s{number}", 500) for number in range(10))

    stops = ROUND_RULES["oort"].choose(view, Rounds(reports=reports, round=501), 10)
    fresh = [stop for stop in stops if "never asked" in stop.why]

    assert len(stops) == 10
    assert len(fresh) == round(EXPLORE_LEAST * 10)


def test_pacer_allows_slower_sites_when_rounds_bring_less():
    def after(*losses: float) -> float:
        return preferred_seconds(
            [
                report(f"s{site}", number, loss=loss, seconds=float(site))
                for number, loss in enumerate(losses)
                for site in range(11)
            ]
        )

    assert after(*[1.0] * 20) == 5.0
    assert after(*[1.0] * 10, *[0.5] * 10) == 6.0
    assert after(*[1.0] * 10, *[0.5] * 10, *[0.2] * 10) == 7.0
    assert preferred_seconds([]) == 0.0


def test_after_a_lost_visit_others_are_asked_where_not_all_are() -> None:
    view = make_view(*(make_candidate(name) for name in "abc"))
    asked = [ROUND_RULES["all"].choose(view, Rounds(lost=lost), 1)[0].dataset for lost in range(3)]

    assert len(set(asked)) == 3
