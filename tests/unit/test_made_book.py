"""Who made which model: numbers that come about again are an old model's only where they should be others."""

from __future__ import annotations

from tests.builders import PACKAGE, make_work

from daitn.base.ids import ArtifactId, NodeId, VisitId
from daitn.control_center.training.made_book import MadeBook
from daitn.control_center.training.records import VisitOrdered
from daitn.descriptors.work import TrainOutcome


def visit(number: int, dataset: str, model: ArtifactId) -> VisitOrdered:
    node, work = NodeId(dataset[:2]), make_work(dataset, model=model)
    name = VisitId(f"job-1/{number}")
    return VisitOrdered(
        job="job-1", at_ns=0, visit=name, fence=number, node=node, purpose="train", work=work, why="next"
    )  # type: ignore[arg-type]


def came(number: int, weights: str) -> TrainOutcome:
    return TrainOutcome(
        model=ArtifactId(f"{number}".ljust(64, "f")), weights=weights, batches=1, records=10, loss_first=1.0,
        loss_last=0.5, update_norm=1.0, data_version="v1", seconds=0.1,
    )  # fmt: skip


def test_way_that_is_gone_again_makes_what_it_made_and_nobody_is_to_blame() -> None:
    book, model = MadeBook(PACKAGE, "w0"), PACKAGE
    for number, (dataset, weights) in enumerate((("s1/records", "w1"), ("s2/records", "w2")), 1):
        outcome = came(number, weights)
        book.accepted(visit(number, dataset, model), outcome)
        model = outcome.model
    again = came(3, "w1")
    book.accepted(visit(3, "s1/records", PACKAGE), again)

    assert book.not_new(visit(4, "s2/records", again.model), came(4, "w2")) is None


def test_numbers_of_before_from_another_model_are_stale() -> None:
    book, first = MadeBook(PACKAGE, "w0"), came(1, "w1")
    book.accepted(visit(1, "s1/records", PACKAGE), first)
    second = came(2, "w2")
    book.accepted(visit(2, "s2/records", first.model), second)

    wrong = book.not_new(visit(3, "s1/records", second.model), came(3, "w1"))
    assert wrong is not None
    assert "older model" in str(wrong)
