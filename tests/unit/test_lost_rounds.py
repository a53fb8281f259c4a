"""A round that is lost as a whole is one try that failed, however many sites it has."""

from __future__ import annotations

from tests.builders import Bench, make_mixer, make_request, make_site, make_unit

from daitn.control_center.training.job_desk import TRIES_MOST
from daitn.descriptors.job import Phase

SITES = TRIES_MOST + 5
COLLIDING = 2
"""Numbers of sites that unit and aggregator have: those are not there."""


def test_round_of_more_sites_than_tries_that_is_cut_off_is_lost_once_and_the_job_goes_on() -> None:
    made = Bench(*(make_site(number + 1) for number in range(SITES + COLLIDING)), make_unit(), make_mixer())
    made.submit(make_request(method="fedavg"))
    made.answer_until(lambda state: state.phase is Phase.RUNNING and len(state.open) >= SITES, most=1000)
    away = {node: made.silence(node) for node, descriptor in list(made.nodes.items()) if descriptor.data}

    made.wait(12.0)
    assert made.state().lost >= SITES
    assert made.state().lost_in_row == 1
    assert made.state().phase is Phase.RUNNING

    made.nodes |= away
    made.describe()
    made.answer_until(lambda state: state.visits >= SITES, most=1000)
    assert made.state().lost_in_row == 0
