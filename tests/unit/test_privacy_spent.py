"""Private training from the request to the card: noise in orders, the site's ledger, who refuses, when it is over."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.builders import (
    JOB,
    Bench,
    bench,
    changed,
    make_candidate,
    make_contract,
    make_data,
    make_order,
    make_package,
    make_policy,
    make_request,
    make_site,
    make_training,
    make_unit,
    make_view,
    make_warrant,
    make_work,
)

from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import JobId, VisitId
from daitn.control_center.training.commands import ChangeAsked, ModelFetched
from daitn.decision.feasibility import Known, judge
from daitn.decision.noising import private_steps, sampling_rate
from daitn.describe.accountant import Mechanism, epsilon_of
from daitn.describe.column_map import ColumnMap
from daitn.descriptors.contract import DataContract, Reinforcement
from daitn.descriptors.job import Phase
from daitn.descriptors.policy import Policy
from daitn.descriptors.privacy import Privacy, PrivateSteps, parse_privacy
from daitn.descriptors.request import Budget, Hyperparameters, check_request
from daitn.descriptors.terminals import DataDescriptor
from daitn.descriptors.work import EvaluateWork, TrainWork
from daitn.node.datasets import DataShelf
from daitn.oam.model_card import model_card
from daitn.oam.timeline import render_log
from daitn.terminal.roles import DataNode, Roles

DAY_NS = 86_400 * 10**9
PRIVATE = PrivateSteps(epsilon=2.0, delta=1e-5, clip=1.0, noise_multiplier=5.0, sampling_rate=0.1)
ASKED = Privacy(epsilon=2.0, visits=3)
HERE = "s1/records"


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_privacy_is_read_from_one_word():
    assert parse_privacy("epsilon=2, clip=0.5,visits=4") == {"epsilon": 2.0, "clip": 0.5, "visits": 4}


@pytest.mark.parametrize(
    "text", ["", "clip=1", "epsilon", "epsilon=much", "epsilon=1,epsilon=2", "sigma=1", "epsilon=1,,"]
)
def test_privacy_that_cannot_be_read_is_refused_with_the_grammar(text):
    with pytest.raises(InputError, match="epsilon=2"):
        parse_privacy(text)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"raw_records": "trust-zone"}, "raw_records"),
        ({"allow_probe": True}, "allow_probe"),
        ({"hyperparameters": Hyperparameters(label_correction=0.5)}, "label_correction"),
    ],
)
def test_request_that_would_reveal_records_beside_the_noise_is_refused_by_name(changes, named):
    with pytest.raises(InputError, match=named):
        check_request(make_request(privacy=ASKED, **changes), make_contract())


def test_task_without_records_is_refused_by_name():
    contract: DataContract = changed(make_contract(), task=Reinforcement(environment="CartPole-v1"))

    with pytest.raises(InputError, match="privacy: episodes"):
        check_request(make_request("mean_return >= 9", privacy=ASKED), contract)


def test_noise_is_as_much_as_makes_the_visits_cost_what_was_asked_for_whatever_the_site():
    for groups in (10.0, 200.0, 5_000.0):
        planned = make_training(batch_size=16, batches=20)
        private = private_steps(ASKED, planned, make_candidate("s", groups=groups))
        assert private is not None
        assert private.sampling_rate == sampling_rate(16, groups) >= min(1.0, 16 / groups)
        one = Mechanism(sampling_rate=private.sampling_rate, noise_multiplier=private.noise_multiplier, steps=20)
        assert 1.99 < epsilon_of([one] * 3, 1e-5) <= 2.0


def test_bound_that_no_noise_keeps_is_refused_before_any_visit():
    request = make_request(privacy=Privacy(epsilon=1e-6))
    judged = judge(make_view(make_candidate("s1")), request, make_package(), Known())

    (failed,) = [one for one in judged.conditions if not one.met and one.what.startswith("privacy")]

    assert failed.available == "none is enough"


# --- at the site ------------------------------------------------------------------------------------------------------


class Clock:
    now_ns = 1_000 * DAY_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


def shelf_with(tmp_path: Path, clock: Clock, **policy: float) -> DataShelf:
    shelf = DataShelf(tmp_path / "shelf", b"s" * 32, clock=clock, noise=lambda counts, _, __: list(counts))
    path = tmp_path / "data.csv"
    contract = make_contract()
    names = [column.name for column in contract.columns]
    path.write_text(",".join(names) + "\n" + "".join(_row(contract, row) for row in range(120)))
    shelf.add("toy", path, contract, Policy(**policy), ColumnMap())
    return shelf


def _row(contract: DataContract, number: int) -> str:
    values = [str(getattr(column, "values", (str(number), str(number)))[number % 2]) for column in contract.columns]
    return ",".join(values) + "\n"


def charge(shelf: DataShelf, number: int, job: str = "j", private: PrivateSteps = PRIVATE) -> float:
    return shelf.charge("toy", JobId(job), VisitId(f"{job}/{number}"), private, 20)


def test_each_visit_is_booked_with_what_it_adds_and_stays_booked(tmp_path: Path, clock: Clock) -> None:
    shelf = shelf_with(tmp_path, clock)
    one = Mechanism(sampling_rate=0.1, noise_multiplier=5.0, steps=20)

    totals = [charge(shelf, number) for number in range(3)]

    assert totals == pytest.approx([epsilon_of([one] * (number + 1), 1e-5) for number in range(3)])
    again = DataShelf(tmp_path / "shelf", b"s" * 32, clock=clock).ledger()
    again.check_invariants()
    assert again.spent("toy", clock.now_ns, DAY_NS, training=True) == pytest.approx(totals[-1])
    assert again.spent("toy", clock.now_ns, DAY_NS) == 0.0  # the budget of published statistics is another
    assert [record.release for record in again.records()] == ["j/0", "j/1", "j/2"]


def test_published_statistics_and_training_do_not_take_from_one_another(tmp_path: Path, clock: Clock) -> None:
    shelf = shelf_with(tmp_path, clock, training_epsilon_per_period=3.0)
    before = shelf.descriptor("toy", "n1")
    charge(shelf, 1)

    assert shelf.descriptor("toy", "n1") == before
    assert shelf.ledger().spent("toy", clock.now_ns, 30 * DAY_NS) == 0.5


@pytest.mark.parametrize("most", [{}, {"epsilon_per_job": 0.9}])
def test_job_may_cost_no_more_than_it_said_nor_than_the_policy_allows(tmp_path: Path, clock: Clock, most) -> None:
    shelf = shelf_with(tmp_path, clock, **most)
    bound = most.get("epsilon_per_job", 2.0)

    def go_on() -> None:
        for number in range(100):
            charge(shelf, number)

    with pytest.raises(PolicyError, match=rf"epsilon_per_job.*it may cost {bound:g}"):
        go_on()

    spent = shelf.ledger().spent("toy", clock.now_ns, DAY_NS, training=True)
    assert 0.5 * bound < spent <= bound  # what was refused was not booked
    assert charge(shelf, 1, job="another") < bound


def test_period_bounds_the_training_of_all_jobs_and_frees_it_when_it_is_over(tmp_path: Path, clock: Clock) -> None:
    shelf = shelf_with(tmp_path, clock, training_epsilon_per_period=0.6, period_days=10)
    charge(shelf, 1, job="a")

    with pytest.raises(PolicyError, match=r"training_epsilon_per_period.*left.*again in 240 h"):
        charge(shelf, 1, job="b")
    clock.now_ns += 11 * DAY_NS

    assert charge(shelf, 2, job="b") > 0


@pytest.mark.parametrize(
    ("policy", "private", "warrant", "refused"),
    [
        ({}, None, None, set()),
        ({}, PRIVATE, 2.0, set()),
        ({"epsilon_per_job": 4.0}, PRIVATE, 2.0, set()),
        ({"epsilon_per_job": 1.0}, PRIVATE, 2.0, {"epsilon_per_job"}),
        ({"epsilon_per_job": 4.0}, None, None, {"epsilon_per_job"}),
        ({"epsilon_per_job": 4.0}, None, 2.0, {"warrant"}),
        ({"epsilon_per_job": 4.0}, changed(PRIVATE, epsilon=9.0), 2.0, {"warrant"}),
    ],
)
def test_site_asks_its_policy_and_believes_no_warrant_that_its_order_does_not_keep(policy, private, warrant, refused):
    roles = Roles(data=DataNode({HERE: make_policy(**policy)}), computes=True)
    order = make_order(work=make_work(private=private), warrant=make_warrant(epsilon=warrant))

    assert {fault.rule for fault in roles.judge(order)} == refused


def test_order_that_lets_records_or_gradients_leave_beside_the_noise_does_not_exist():
    with pytest.raises(ValueError, match="private training keeps records"):
        make_work(private=PRIVATE, records="d" * 64)


# --- a job ------------------------------------------------------------------------------------------------------------


def site(number: int, **policy: float) -> DataDescriptor:
    data = make_data(f"s{number}")
    return changed(data, policy=changed(data.policy, **policy))


def told(made: Bench) -> list[TrainWork]:
    return [one.work for one in made.state().ordered.values() if isinstance(one.work, TrainWork)]


@pytest.mark.parametrize("method", ["routed", "fedavg", "scaffold", "fedbuff"])
def test_job_trains_until_each_data_set_has_told_what_it_may_and_the_card_says_so(method):
    made = bench()
    made.submit(make_request(method=method, privacy=ASKED))
    made.answer_until(lambda state: state.phase is Phase.DELIVERING)
    made.give(ModelFetched(job=JOB, artifact=made.state().best))
    card = model_card(made.state(), str)

    works = told(made)
    assert made.state().phase is Phase.EXHAUSTED
    assert "privacy pays for no further visit" in made.state().reason
    assert all(work.private is not None and not work.training.label_correction for work in works)
    assert {name: sum(work.dataset == name for work in works) for name in {work.dataset for work in works}} == {
        "s1/records": 3,
        "s2/records": 3,
    }
    assert card.epsilon is not None
    assert 1.9 < card.epsilon <= 2.0
    assert card.delta == 1e-5
    assert card.rerun.privacy == ASKED
    assert model_card(made.replayed().jobs[JOB].state, str) == card


def test_unit_is_asked_before_any_visit_whether_records_have_gradients_of_their_own():
    made = bench()
    made.submit(make_request(privacy=ASKED))
    made.answer_until(lambda state: any(one.ordered.purpose == "preflight" for one in state.open.values()))

    (work,) = [one.work for one in made.state().ordered.values() if isinstance(one.work, EvaluateWork)]

    assert work.private


def test_data_sets_that_demand_noise_are_left_out_where_there_is_too_little():
    def admitted(**request) -> set[str]:
        made = Bench(
            make_site(1, data=(site(1, epsilon_per_job=1.0),)),
            make_site(2, data=(site(2, epsilon_per_job=5.0),)),
            make_site(3, data=(site(3),)),
            make_unit(),
        )
        made.submit(make_request(budget=Budget(visits=4), **request))
        made.answer_until(lambda state: state.ended or state.phase is Phase.DELIVERING)
        return {work.dataset for work in told(made)}

    assert admitted() == {"s3/records"}
    assert admitted(privacy=ASKED) == {"s2/records", "s3/records"}
    assert admitted(privacy=Privacy(epsilon=0.8)) == {"s1/records", "s2/records", "s3/records"}


def test_log_says_the_noise_and_what_it_has_cost():
    made = bench()
    made.submit(make_request(privacy=ASKED))
    made.answer_until(lambda state: any(one.ordered.purpose == "train" for one in state.open.values()))
    (node, order) = next(one for one in made.orders() if isinstance(one[1].work, TrainWork))
    made.answer(node, order, loss_first=None, loss_last=None, epsilon=0.75, records=1)
    text = "\n".join(entry.text for entry in render_log(made.state(), str))

    assert "ε at most 2 at δ = 1e-05 for each data set, 3 visits to each" in text
    assert "each gradient cut to 1 and noise of" in text
    assert "losses are not told, this job has cost its data set ε = 0.75" in text


def test_privacy_stays_when_its_owner_changes_the_request():
    made = bench()
    made.submit(make_request(privacy=ASKED))
    made.answer_until(lambda state: state.phase is Phase.RUNNING)
    made.give(ChangeAsked(job=JOB, request=make_request(privacy=None, deadline_s=7200.0)))

    assert made.state().request.privacy == ASKED
    assert made.state().request.deadline_s == 7200.0
