"""Validity: within the ranges that a choice comes with it is never another one, whatever moves together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import make_candidate, make_view

from daitn.base.ids import DataSetId, NodeId
from daitn.decision.routes import RULES
from daitn.decision.routes.contract import Seen
from daitn.decision.validity import pair_of, validity_of
from daitn.descriptors.plan import FactRange
from daitn.descriptors.view import Candidate, TrainingView

RECORDS = 64
SHARES = st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.8, 0.95, 1.0])


@st.composite
def views(draw: st.DrawFn) -> TrainingView:
    """One to five data sets, some with two places, batches timed or not."""
    candidates = []
    for number in range(draw(st.integers(1, 5))):
        labels = {str(label): float(draw(st.integers(0, 300))) for label in range(draw(st.integers(0, 3)))}
        for place in range(draw(st.integers(1, 2))):
            candidates.append(
                make_candidate(
                    f"s{number}",
                    labels,
                    compute_node=NodeId(f"m{number}-{place}"),
                    trust=draw(SHARES),
                    availability=draw(SHARES),
                    flops=draw(st.sampled_from([1e9, 2e9, 1e10])),
                    batch_s=draw(st.sampled_from([None, 0.1, 0.11, 0.2])),
                    wait_s=draw(st.sampled_from([0.0, 0.0, 1.0, 30.0])),
                )
            )
    fixed = [msgspec.structs.replace(one, trust=max(one.trust, 1e-3)) for one in candidates]
    return make_view(*fixed)


@st.composite
def histories(draw: st.DrawFn) -> Seen:
    """Up to eight visits, also at data sets that are gone."""
    names = st.sampled_from([DataSetId(f"s{number}/records") for number in range(7)])
    visits = draw(st.lists(st.tuples(names, st.sampled_from([16, 64, 200])), max_size=8))
    return Seen(visits=tuple(visits), seed=draw(st.integers(0, 3)))


def moved(candidate: Candidate, ranges: dict[tuple[str, str, str], FactRange], data: st.DataObject) -> Candidate:
    """The candidate with each fact somewhere in its range, ends preferred."""
    changes = {}
    for (node, dataset, fact), one in ranges.items():
        if (node, dataset) == (candidate.compute_node, candidate.dataset):
            ends = st.sampled_from([one.low, one.high])
            changes[fact] = data.draw(ends | st.floats(one.low, one.high, allow_subnormal=False))
    return msgspec.structs.replace(candidate, **changes)


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
@settings(max_examples=150, deadline=None)
@given(view=views(), seen=histories(), data=st.data())
def test_choice_stands_wherever_facts_lie_in_their_ranges(rule, view, seen, data):
    stop = rule.next_stop(view, seen, RECORDS)
    validity = validity_of(view, rule, seen, RECORDS, stop)
    ranges = {(one.thing, one.dataset, one.fact): one for one in validity.ranges}

    changed = make_view(*(moved(one, ranges, data) for one in view.candidates))
    again = rule.next_stop(changed, seen, RECORDS)

    assert validity.pairs == tuple(sorted(pair_of(one) for one in view.candidates))
    assert all(ranges[one.compute_node, one.dataset, "trust"].holds(one.trust) for one in view.candidates)
    assert (again.dataset, again.compute_node) == (stop.dataset, stop.compute_node)
