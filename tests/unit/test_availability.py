"""Availability: nodes that were never missed stay, those that come and go are forecast so, windows are known."""

from __future__ import annotations

import random

import pytest

from daitn.descriptors.access import Access, AccessKind, Window
from daitn.descriptors.availability import UpTime
from daitn.tools.availability import forecast, forecast_span, observe, through_at

NOW_S = 1_700_000_000.0
ALWAYS = Access()


def seen(*spans: tuple[float, float], access: Access = ALWAYS) -> tuple[UpTime, float]:
    """After spans of (seconds up, seconds down), up again at the end."""
    known, at_s = UpTime(since_s=NOW_S), NOW_S
    for up_s, down_s in spans:
        at_s += up_s
        known = observe(known, False, at_s, access)
        at_s += down_s
        known = observe(known, True, at_s, access)
    return known, at_s


def test_node_that_was_never_missed_is_forecast_to_stay():
    known = UpTime(since_s=NOW_S)

    assert forecast(known, ALWAYS, NOW_S, NOW_S + 1e6) == 1.0
    assert forecast_span(known, ALWAYS, NOW_S, 300.0) == 1.0


def test_node_that_is_down_half_of_the_time_is_forecast_so_in_the_long_run():
    known, now_s = seen(*([(600.0, 600.0)] * 60))

    assert forecast(known, ALWAYS, now_s, now_s) == 1.0
    assert forecast(known, ALWAYS, now_s, now_s + 86_400) == pytest.approx(0.52, abs=0.05)
    assert 0.75 < forecast_span(known, ALWAYS, now_s, 300.0) < 0.95


def test_forecast_agrees_with_how_often_a_simulated_node_was_up():
    """Ten minutes up and five down in the mean, both exponential: probability up a while after it was seen up."""
    rng = random.Random(7)
    spans = [(rng.expovariate(1 / 600), rng.expovariate(1 / 300)) for _ in range(400)]
    known, now_s = seen(*spans)
    changes = [0.0]
    for up_s, down_s in ((rng.expovariate(1 / 600), rng.expovariate(1 / 300)) for _ in range(20_000)):
        changes += [changes[-1] + up_s, changes[-1] + up_s + down_s]
    ahead_s, hits, tries, place = 240.0, 0, 0, 0
    for start in range(0, len(changes) - 2, 2):
        asked_s = changes[start] + ahead_s
        if asked_s >= changes[-1]:
            break
        place = start
        while changes[place + 1] <= asked_s:
            place += 1
        hits, tries = hits + (place % 2 == 0), tries + 1

    assert forecast(known, ALWAYS, now_s, now_s + ahead_s) == pytest.approx(hits / tries, abs=0.06)


def test_planned_absence_is_no_failure_and_outside_windows_nothing_is_forecast():
    passes = Access(kind=AccessKind.SATELLITE, windows=(Window(start_unix_s=NOW_S, seconds=600, every_s=6000),))
    known, now_s = seen(*([(600.0, 5400.0)] * 10), access=passes)

    assert known.failures == 0
    assert known.down_s == 0
    assert forecast(known, passes, now_s, now_s + 60) == 1.0
    assert forecast(known, passes, now_s, now_s + 900) == 0.0
    assert forecast_span(known, passes, now_s, 6000.0) == pytest.approx(0.1)


def test_old_failures_fade():
    known, now_s = seen((60.0, 60.0), (60.0, 60.0))
    later = observe(known, True, now_s + 10 * 86_400, ALWAYS)

    assert later.failures < 0.01 * known.failures
    assert forecast_span(later, ALWAYS, later.since_s, 300.0) > forecast_span(known, ALWAYS, now_s, 300.0)


def test_transfer_over_a_satellite_resumes_in_the_next_pass():
    passes = Access(
        kind=AccessKind.SATELLITE, bytes_per_s=1e6, windows=(Window(start_unix_s=NOW_S, seconds=600, every_s=6000),)
    )

    assert through_at(passes, NOW_S, 300e6, 50e6) == NOW_S + 300
    assert through_at(passes, NOW_S, 900e6, 50e6) == NOW_S + 6000 + 300
    assert through_at(ALWAYS, NOW_S, 100e6, 50e6) == NOW_S + 2
