"""The compatibility matrix: published as it is judged by, and every cell of it refused or admitted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.builders import changed, make_candidate, make_package, make_request, make_view

from daitn.decision.counter_offer import find_counter_offer
from daitn.decision.feasibility import Known, judge
from daitn.descriptors.compression import Compression
from daitn.descriptors.outcome import ReasonCode
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.request import Hyperparameters, Request, SecureAggregation
from daitn.learning.methods import METHODS, splits
from daitn.learning.methods.compatibility import OPTIONS, conflicts, matrix

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
BEGIN, END = "<!-- made by python -m tests.contract.test_compatibility -->\n", "<!-- until here -->\n"

ASKED = {
    "server_learning_rate": Hyperparameters(server_learning_rate=0.5),
    "optimizer": Hyperparameters(optimizer="momentum"),
    "average_steps": Hyperparameters(average_steps=10),
}
SITES = tuple(make_candidate(name) for name in ("s1", "s2", "s3"))
VIEW = make_view(*SITES)
CUT = make_view(*(changed(site, split=True, compute_node="lab") for site in SITES))


def asking(option: str, method: str) -> Request:
    if option == "secure_aggregation":
        return make_request(method=method, secure_aggregation=SecureAggregation())
    if option == "compression":
        return make_request(method=method, compression=Compression())
    if option == "privacy":
        return make_request(method=method, privacy=Privacy(epsilon=2.0))
    return make_request(method=method, hyperparameters=ASKED[option])


def refusals(request: Request) -> list[str]:
    judged = judge(CUT if splits(request.method) else VIEW, request, make_package(), Known())
    return [one.what for one in judged.conditions if not one.met and one.code is ReasonCode.METHOD]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
@pytest.mark.parametrize("method", METHODS.values(), ids=lambda one: one.name)
def test_every_cell_is_admitted_or_refused_with_its_reason(option, method):
    request = asking(option.name, method.name)

    assert option.asked(request)
    assert not option.asked(option.without(request))
    assert bool(refusals(request)) == bool(option.refused(method))


@pytest.mark.parametrize("option", OPTIONS, ids=lambda one: one.name)
def test_option_that_is_refused_is_left_out_of_the_offer(option):
    refusing = next(name for name, one in METHODS.items() if option.refused(one))
    request = asking(option.name, refusing)

    offer = find_counter_offer(lambda _: VIEW, request, make_package(), Known())

    assert offer is not None
    assert not option.asked(offer.request)
    assert judge(VIEW, offer.request, make_package(), Known())
    assert refusals(offer.request) == []


def test_option_without_a_method_is_judged_for_the_method_that_was_chosen():
    assert refusals(asking("server_learning_rate", ""))
    assert refusals(asking("average_steps", "")) == []
    assert refusals(asking("secure_aggregation", "")) == []
    assert refusals(asking("compression", "")) == []


def test_request_that_asks_for_nothing_special_goes_with_every_method():
    assert all(conflicts(method, make_request(method=name)) == () for name, method in METHODS.items())


def test_every_option_is_refused_by_some_method_and_admitted_by_another():
    for option in OPTIONS:
        assert {bool(option.refused(method)) for method in METHODS.values()} == {True, False}


def test_page_shows_the_matrix_as_it_is():
    shown = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]

    assert shown == matrix() + "\n", "run python -m tests.contract.test_compatibility"


def test_page_speaks_of_every_method():
    text = PAGE.read_text()

    assert [name for name in METHODS if f"`{name}`" not in text.partition(BEGIN)[0]] == []


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + matrix() + "\n" + END + rest.partition(END)[2])
