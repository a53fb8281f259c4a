"""Control variates at the centre: which a visit is given, what goes with which model, and when all begin anew."""

from __future__ import annotations

from tests.builders import bench, changed, make_request, make_work
from tests.unit.test_job_machine import is_averaging, the_order

from daitn.base.ids import ArtifactId, DataSetId
from daitn.control_center.training.control_book import ControlBook
from daitn.descriptors.work import (
    AggregateWork,
    ControlRound,
    ServerStep,
    Training,
    TrainOutcome,
    TrainWork,
    UpdateRef,
    inputs_of,
)
from daitn.wire.center_tools import VisitOrder

STEP = ServerStep(optimizer="scaffold", learning_rate=1.0)
TRAINING = Training(batch_size=8, batches=10, learning_rate=0.1, optimizer="sgd", control_variates=True)


def name(text: str) -> ArtifactId:
    return ArtifactId(text)


def train(book: ControlBook, site: str, update: str, *, shared: str = "", records: int = 100) -> UpdateRef:
    """A visit at a site ends with a model and a variate."""
    work = changed(make_work(f"{site}/records"), training=TRAINING, shared_control=name(shared) if shared else None)
    outcome = TrainOutcome(
        model=name(update), batches=10, records=records, loss_first=1.0, loss_last=0.5, update_norm=1.0,
        data_version="1", seconds=0.1, control=name(f"{update} variate"),
    )  # fmt: skip
    book.trained(work, outcome)
    return UpdateRef(model=name(update), weight=float(records))


def averaged(book: ControlBook, base: str, model: str, updates: list[UpdateRef], state: str = "", lost=()) -> None:
    remembered = name(state) if state else None
    control = book.round_of(name(base), remembered, updates, 1.0)
    work = AggregateWork(updates=tuple(updates), server=STEP, base=name(base), state=remembered, control=control)
    book.averaged(work, name(model), lost)


def given(book: ControlBook, model: str, site: str, shared: str = "c", away: str = "") -> tuple[object, object]:
    return book.for_visit(name(model), DataSetId(f"{site}/records"), name(shared), lambda one: one != away)


def test_first_round_has_none_and_the_second_what_the_first_made():
    book = ControlBook()
    assert given(book, "m0", "s1") == (None, None)
    averaged(book, "m0", "m1", [train(book, "s1", "u1"), train(book, "s2", "u2")])

    assert given(book, "m1", "s1") == ("c", "u1 variate")
    assert given(book, "m1", "s2") == ("c", "u2 variate")
    assert given(book, "m1", "s3") == ("c", None)


def test_round_says_how_many_records_stand_before_and_after_it():
    book = ControlBook()
    first = [train(book, "s1", "u1", records=100), train(book, "s2", "u2", records=300)]
    assert book.round_of(name("m0"), None, first, 0.5) == ControlRound(records_before=0, records_after=400, reach=0.5)
    averaged(book, "m0", "m1", first)
    second = [train(book, "s2", "u3", shared="c", records=300), train(book, "s3", "u4", shared="c", records=50)]

    assert book.round_of(name("m1"), name("c"), second, 0.5) == ControlRound(
        records_before=400, records_after=450, reach=0.5
    )


def test_site_that_was_not_in_a_round_keeps_its_variate():
    book = ControlBook()
    averaged(book, "m0", "m1", [train(book, "s1", "u1"), train(book, "s2", "u2")])
    averaged(book, "m1", "m2", [train(book, "s1", "u3", shared="c")], state="c")

    assert given(book, "m2", "s1") == ("c", "u3 variate")
    assert given(book, "m2", "s2") == ("c", "u2 variate")


def test_older_model_goes_with_its_own_variates():
    book = ControlBook()
    averaged(book, "m0", "m1", [train(book, "s1", "u1")])
    averaged(book, "m1", "m2", [train(book, "s1", "u2", shared="c")], state="c")

    assert given(book, "m1", "s1") == ("c", "u1 variate")
    assert book.keep({name("m1")}) == {"u1 variate"}
    assert given(book, "m2", "s1") == (None, None)


def test_one_lost_variate_lets_all_begin_anew():
    book = ControlBook()
    averaged(book, "m0", "m1", [train(book, "s1", "u1"), train(book, "s2", "u2")])
    assert given(book, "m1", "s1", away="u2 variate") == (None, None)
    assert given(book, "m1", "s1", away="c") == (None, None)
    anew = [train(book, "s1", "u3"), train(book, "s2", "u4")]
    averaged(book, "m1", "m2", anew)

    assert given(book, "m2", "s1") == ("c", "u3 variate")


def test_shared_variate_that_is_lost_within_a_round_leaves_nothing_to_go_on_from():
    book = ControlBook()
    averaged(book, "m0", "m1", [train(book, "s1", "u1")])
    averaged(book, "m1", "m2", [train(book, "s1", "u2", shared="c")], state="")

    assert given(book, "m2", "s1") == (None, None)


def test_update_that_is_left_out_leaves_no_variate():
    book = ControlBook()
    averaged(book, "m0", "m1", [train(book, "s1", "u1"), train(book, "s2", "u2")], lost=[name("u2")])

    assert given(book, "m1", "s2") == ("c", None)


def test_orders_of_a_second_round_carry_both_variates_and_release_keeps_them():
    made = bench(sites=3)
    made.submit(make_request(method="scaffold"))
    made.answer_until(is_averaging)
    mixer, order = the_order(made)
    first = [m.work for _, m in made.sent if isinstance(m, VisitOrder) and isinstance(m.work, TrainWork)]
    assert {(work.shared_control, work.own_control) for work in first} == {(None, None)}
    assert order.work.control.records_before == 0
    made.answer(mixer, order)
    made.answer_until(lambda state: state.rounds == 1 and is_averaging(state))

    state = made.state()
    second = [m for _, m in made.sent if isinstance(m, VisitOrder) and isinstance(m.work, TrainWork)][len(first) :]
    shared = state.server_states[state.head]
    own = {one.artifact for one in state.controls.of(state.head).values()}
    assert len(own) == 3
    assert {order.work.shared_control for order in second} == {shared}
    assert {order.work.own_control for order in second} == own
    for one in second:
        assert [ref.artifact for ref in one.inputs] == list(inputs_of(one.work))
        assert all(ref.holders for ref in one.inputs)
    _, averaging = the_order(made)
    assert averaging.work.state == shared
    assert averaging.work.control.records_before == averaging.work.control.records_after == 600
    assert own | {shared} <= set(state.holders)
