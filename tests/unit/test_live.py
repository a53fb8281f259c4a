"""Judged answers: counted at gateways, told as totals, what they say of a model, and what becomes of a new version."""

from __future__ import annotations

import math

import numpy as np
import pytest

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName, NodeId, OwnerId
from daitn.control_center.inference import live_book
from daitn.control_center.inference.live_book import LiveBook
from daitn.decision.canary_judging import MARGIN, CanaryVerdict, Seen, judge_canary
from daitn.decision.live_accuracy import (
    CHANCE,
    chance_of_look,
    fell,
    fitting_temperature,
    fitting_threshold,
    wilson,
)
from daitn.descriptors.live import TEMPERATURES, THRESHOLDS, FieldOutcomes, ModelOutcomes
from daitn.descriptors.serving import ServedModel, ServingGoal
from daitn.node.http.problems import HttpError
from daitn.node.serving import outcome_book
from daitn.node.serving.outcome_book import Feedback, OutcomeBook, decode_feedback
from daitn.serving.tensors import tensor_of, tensors_of
from daitn.wire.center_serving import OutcomesTold

PACKAGE = ArtifactId("a" * 64)
MODEL = ServedModel(model=ModelName("sides"), artifact=PACKAGE, owner=OwnerId("ada"), goal=ServingGoal())
SCORES = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]], np.float32)


def remembered(scores: np.ndarray = SCORES, query: str = "q", key: str = "k") -> OutcomeBook:
    book = OutcomeBook()
    assert book.remember(query, key, MODEL, tensors_of({"logits": scores})) == ""
    return book


def test_feedback_makes_counts_of_an_answer_once_and_lets_its_rows_go() -> None:
    book = remembered()
    assert book.judge("q", "k", Feedback(right=(0, 1, 1), field="north")) == (3, 2)
    (told,) = book.told()
    (judged,) = told.judged
    assert (told.model, judged.field, judged.rows, judged.right) == ("sides", "north", 3, 2)
    assert len(judged.surprise) == len(TEMPERATURES)
    wanted = -sum(math.log(1 / (1 + math.exp(sign * 2))) for sign in (-1, -1, 1))
    assert judged.surprise[TEMPERATURES.index(1.0)] == pytest.approx(wanted, rel=1e-5)
    parts = len(THRESHOLDS) + 1
    places = [place for place, rows in enumerate(judged.shared) for _ in range(rows)]
    # shares of the second class: 0.12, twice, where one such row was of each class, and 0.88, rightly
    assert places == [2, parts + 2, parts + 17]
    with pytest.raises(HttpError, match="judged already"):
        book.judge("q", "k", Feedback(right=(0, 1, 1)))


def test_feedback_that_does_not_fit_or_of_another_key_is_refused_and_counts_nothing() -> None:
    book = remembered()
    with pytest.raises(HttpError, match="no such answer of this key"):
        book.judge("q", "other", Feedback(right=(0, 1, 1)))
    with pytest.raises(HttpError, match="ask with x-daitn-feedback"):
        book.judge("another", "k", Feedback(right=(0, 1, 1)))
    with pytest.raises(InputError, match="2 right classes for an answer of 3 rows"):
        book.judge("q", "k", Feedback(right=(0, 1)))
    with pytest.raises(InputError, match="class 2 of 2"):
        book.judge("q", "k", Feedback(right=(0, 1, 2)))
    assert book.told() == ()
    assert book.judge("q", "k", Feedback(right=(0, 1, 1))) == (3, 2), "a mistake may be corrected"
    for body in (b"{", b"{}", b'{"right": []}', b'{"right": [-1]}', b'{"right": ["a"]}', b'{"right": [0], "x": 1}'):
        with pytest.raises(InputError, match="does not decode"):
            decode_feedback(body)


def test_answer_that_has_no_classes_cannot_be_remembered_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    book = OutcomeBook()
    assert "0 of its outputs" in book.remember("q", "k", MODEL, (tensor_of("y", np.zeros(3, np.float32)),))
    two = tensors_of({"a": SCORES, "b": SCORES})
    assert "2 of its outputs" in book.remember("q", "k", MODEL, two)
    monkeypatch.setattr(outcome_book, "REMEMBERED", 2)
    for number in range(3):
        assert book.remember(f"q{number}", "k", MODEL, tensors_of({"y": SCORES})) == ""
    with pytest.raises(HttpError, match="no such answer"):
        book.judge("q0", "k", Feedback(right=(0, 1, 1)))
    monkeypatch.setattr(outcome_book, "REMEMBERED_BYTES", 100)
    assert "are remembered" in book.remember("q9", "k", MODEL, tensors_of({"y": SCORES}))


def told(rows: int, right: int, answered: int = 0, lost: int = 0, since: int = 1, field: str = "") -> OutcomesTold:
    judged = (FieldOutcomes(field=field, rows=rows, right=right),)
    one = ModelOutcomes(model=ModelName("sides"), artifact=PACKAGE, answered=answered, lost=lost, judged=judged)
    return OutcomesTold(since=since, outcomes=(one,))


def test_totals_are_counted_once_whatever_is_lost_repeated_or_restarted() -> None:
    book, gate, served = LiveBook(), NodeId("gate"), {PACKAGE: None}
    book.take(gate, told(100, 90, 500), served)
    assert book.seen(PACKAGE) == Seen(0, 0, 0, 0), "counting begins with a gateway's first word"
    for _ in range(3):
        book.take(gate, told(110, 99, 550, 1), served)
    assert book.seen(PACKAGE) == Seen(10, 9, 50, 1)
    book.take(gate, told(5, 5, 10, since=2), served)
    assert book.seen(PACKAGE) == Seen(15, 14, 60, 1), "a gateway that was restarted begins at nothing"
    book.take(gate, told(4, 9, 10, since=2), served)
    assert book.seen(PACKAGE).rows == 15, "less than before, or more right than rows, is nothing"
    book.take(gate, told(1000, 1000), {})
    book.forget(())
    assert book.seen(PACKAGE) == Seen(0, 0, 0, 0)


def test_model_whose_world_has_changed_is_seen_to_fall_and_one_that_only_had_bad_luck_is_not() -> None:
    book, gate, served = LiveBook(), NodeId("gate"), {PACKAGE: None}
    measured = {"accuracy": 0.9, "accuracy@north": 0.9}
    book.take(gate, told(0, 0, field="north"), served)
    book.take(gate, told(2000, 1800, field="north"), served)
    (field,) = book.shown(PACKAGE, measured).fields
    assert (field.measured, field.fell, field.accuracy) == (0.9, False, 0.9)
    assert field.low < 0.9 < field.high
    book.take(gate, told(4000, 1800 + 1500, field="north"), served)
    (field,) = book.shown(PACKAGE, measured).fields
    assert field.fell
    assert field.accuracy == pytest.approx(0.75)
    assert field.rows <= live_book.WINDOW_ROWS


def test_looking_often_does_not_find_a_fall_that_is_not_there() -> None:
    """400 models that are as good as they were measured, looked at after every tenth row: one in a hundred may err."""
    draw = np.random.default_rng(7)
    erred = 0
    for _ in range(400):
        right = np.cumsum(draw.random(1000) < 0.9)
        erred += any(fell(rows, float(right[rows - 1]), 0.9) for rows in range(30, 1000, 10))
    assert erred / 400 <= 3 * CHANCE
    assert sum(chance_of_look(30 * 1.5**look) for look in range(100)) <= CHANCE


def test_intervals_hold_the_share_and_temperature_is_that_of_the_answers() -> None:
    assert wilson(0, 0) == (0.5, 0.0, 1.0)
    low, high = wilson(10, 10)[1:]
    assert (low < 0.75, high) == (True, 1.0)
    draw = np.random.default_rng(3)
    shares = draw.dirichlet((0.5, 0.5, 0.5), 4000)
    right = np.array([draw.choice(3, p=row / row.sum()) for row in shares])
    for factor in (0.5, 1.0, 4.0):
        scores = np.log(np.maximum(shares, 1e-12)) * factor
        found = fitting_temperature(4000, list(outcome_book.surprise_of(scores, right)))
        assert found == pytest.approx(factor, rel=0.2)
    assert fitting_temperature(5, [0.0] * len(TEMPERATURES)) == 1.0


def two_classes(draw: np.random.Generator, rows: int, shift: float) -> list[float]:
    """Judged rows of a model of two classes whose scores say the second too rarely by `shift`."""
    truth = draw.normal(size=rows)
    right = (draw.random(rows) < 1 / (1 + np.exp(-2 * truth))).astype(int)
    scores = np.stack([np.zeros(rows), 2 * truth - shift], axis=1)
    return outcome_book.shared_of(scores, right).astype(float).tolist()


def test_threshold_is_where_the_other_class_is_right_more_often() -> None:
    draw = np.random.default_rng(4)
    for wanted in (0.2, 0.5, 0.8):
        shared = two_classes(draw, 4000, -math.log(wanted / (1 - wanted)))
        found = fitting_threshold(shared)
        assert found == pytest.approx(wanted, abs=0.1)
        assert fitting_threshold(shared, found) == found, "what was found stays"
    assert fitting_threshold([0.0] * 2 * (len(THRESHOLDS) + 1), 0.35) == 0.35
    assert fitting_threshold([], 0.35) == 0.35, "models of more classes"


def test_threshold_of_a_model_that_needs_none_is_hardly_ever_moved() -> None:
    draw = np.random.default_rng(5)
    parts = len(THRESHOLDS) + 1
    erred = 0
    for _ in range(300):
        share = draw.random(1000)
        right = draw.random(1000) < share
        places = np.searchsorted(THRESHOLDS, share, side="right")
        moved = False
        for rows in range(30, 1000, 50):
            shared = np.bincount(right[:rows] * parts + places[:rows], minlength=2 * parts)
            moved = moved or fitting_threshold(shared.tolist()) != 0.5
        erred += moved
    assert erred / 300 <= 3 * CHANCE


@pytest.mark.parametrize(
    ("old", "new", "over", "verdict"),
    [
        (Seen(0, 0, 1000, 0), Seen(0, 0, 100, 0), False, CanaryVerdict.WAIT),
        (Seen(0, 0, 1000, 0), Seen(0, 0, 100, 0), True, CanaryVerdict.TAKE_BACK),
        (Seen(0, 0, 1000, 1), Seen(0, 0, 40, 20), False, CanaryVerdict.TAKE_BACK),
        (Seen(0, 0, 900, 100), Seen(0, 0, 90, 10), False, CanaryVerdict.WAIT),
        (Seen(2000, 1800, 2000, 0), Seen(500, 300, 500, 0), False, CanaryVerdict.TAKE_BACK),
        (Seen(2000, 1400, 2000, 0), Seen(500, 475, 500, 0), False, CanaryVerdict.TAKE_OVER),
        (Seen(20, 20, 20, 0), Seen(20, 0, 20, 0), False, CanaryVerdict.WAIT),
        (Seen(40000, 36000, 40000, 0), Seen(20000, 18000, 20000, 0), False, CanaryVerdict.TAKE_OVER),
        (Seen(100, 90, 100, 0), Seen(100, 88, 100, 0), False, CanaryVerdict.WAIT),
        (Seen(100, 90, 100, 0), Seen(100, 88, 100, 0), True, CanaryVerdict.TAKE_BACK),
    ],
)
def test_new_version_is_judged_by_what_was_judged_and_lost(old: Seen, new: Seen, over: bool, verdict: str) -> None:
    judged = judge_canary(old, new, over=over)
    assert judged.verdict == verdict
    assert bool(judged.why) == (verdict != CanaryVerdict.WAIT)


@pytest.mark.parametrize(("gain", "wanted"), [(-0.10, "take-back"), (0.05, "take-over")])
def test_new_version_that_is_worse_goes_and_one_that_is_better_stays(gain: float, wanted: str) -> None:
    """A hundred runs each, judged every fifty rows as they come."""
    draw, other = np.random.default_rng(11), 0
    for _ in range(100):
        old, new = np.cumsum(draw.random(6000) < 0.85), np.cumsum(draw.random(6000) < 0.85 + gain)
        for rows in range(50, 6000, 50):
            seen = Seen(rows, float(old[rows - 1]), rows, 0), Seen(rows, float(new[rows - 1]), rows, 0)
            verdict = judge_canary(*seen, over=False).verdict
            if verdict is not CanaryVerdict.WAIT:
                other += verdict != wanted
                break
        else:
            other += 1
    assert other <= 3
    assert MARGIN < 0.1
