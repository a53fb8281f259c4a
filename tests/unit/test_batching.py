"""The queue before engines: what is joined, what is refused, and what is learnt of time."""

from __future__ import annotations

import numpy as np
import pytest

from daitn.serving.batching import BatchQueue, Waiting

S = 1_000_000_000


def queue(**changes: object) -> BatchQueue[str]:
    given: dict[str, object] = {"rows_most": 8, "engines": 1, "row_s": 0.01, "batch_rows": 11, "batch_s": 0.02}
    return BatchQueue(**{**given, **changes})  # type: ignore[arg-type]


def query(ticket: str, rows: int = 1, width: int = 2, deadline_s: float = 10.0) -> Waiting[str]:
    return Waiting({"x": np.zeros((rows, width))}, rows, 0, int(deadline_s * S), ticket)


def test_queries_that_agree_are_joined_in_order_and_others_wait() -> None:
    waiting = queue()
    for one in (query("a", 3), query("wide", 1, width=5), query("b", 4), query("c", 4), query("d", 1)):
        assert waiting.offer(one, 0) is None

    assert [one.ticket for one in waiting.take()] == ["a", "b", "d"]
    assert [one.ticket for one in waiting.take()] == ["wide"]
    assert [one.ticket for one in waiting.take()] == ["c"]
    assert waiting.take() == []
    assert waiting.rows == 0


def test_query_that_cannot_be_done_in_time_is_refused_before_it_costs_anything() -> None:
    waiting = queue()
    assert waiting.offer(query("slow", 8, deadline_s=1.0), 0) is None
    number = waiting.begun(8, 0)

    refused = waiting.offer(query("hurry", 1, deadline_s=0.012), 0)

    assert refused is not None
    assert "0.012 s are left" in refused.why
    assert refused.retry_after_s > 0
    waiting.ended(number, 8, 0.02)


def test_full_queue_refuses_with_its_bound() -> None:
    waiting = queue(queries_most=2)
    assert waiting.offer(query("a"), 0) is None
    assert waiting.offer(query("b"), 0) is None

    refused = waiting.offer(query("c"), 0)

    assert refused is not None
    assert "2 queries" in refused.why


def test_late_queries_and_those_nobody_waits_for_are_dropped() -> None:
    waiting = queue()
    for one in (query("late", 2, deadline_s=1.0), query("gone", 3), query("kept", 4)):
        assert waiting.offer(one, 0) is None

    assert [one.ticket for one in waiting.drop_late(2 * S)] == ["late"]
    waiting.remove("gone")

    assert [one.ticket for one in waiting.take()] == ["kept"]
    assert waiting.rows == 0


def test_times_follow_what_is_observed() -> None:
    waiting = queue()
    before = waiting.expected_s(8)
    for _ in range(50):
        waiting.ended(waiting.begun(8, 0), 8, 2 * before)

    assert waiting.expected_s(8) == pytest.approx(2 * before, rel=0.02)
    assert waiting.wait_s(0) == 0.0


def test_wait_counts_what_runs_and_what_waits_over_all_engines() -> None:
    waiting = queue(engines=2)
    waiting.begun(8, 0)
    assert waiting.wait_s(0) == 0.0
    waiting.begun(8, 0)
    assert waiting.offer(query("a", 8), 0) is None

    assert waiting.wait_s(0) == pytest.approx(1.5 * waiting.expected_s(8))
