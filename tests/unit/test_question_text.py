"""Questions as text: what is read, written again, and what is said of one that is wrong."""

from __future__ import annotations

import pytest

from daitn.base.errors import InputError
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.question_writing import question_text
from daitn.descriptors.questions import DEPTH_MOST, PARTS_MOST, QUESTION_CHARS


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("terminal", "terminal top 50"),
        ("terminal where not reachable", "terminal where not reachable top 50"),
        (
            "data where since(newest_unix_s) <= 90d and terminal.reachable_frac >= 99% top 5 by records ascending",
            "data where since(newest_unix_s) <= 7776000 and terminal.reachable_frac >= 0.99 top 5 by records ascending",
        ),
        (
            "data where some data_field (field = cardiology) and within 20ms of (accelerators >= 1)",
            "data where some data_field by data (field = cardiology) and within 0.02s of (accelerators >= 1) top 50",
        ),
        (
            "terminal where name starts with 'c' or region not in (x, 'it''s') score raw 2 log(flops) - trust top 5",
            "terminal where name starts with c or not region in (x, 'it''s') score raw 2 log(flops) + -1 trust top 5",
        ),
        ("terminal score flops ^ 1 * trust ^ 2 top 3 by score", None),
        ("terminal nearest to n1 by round_trip show region, trust top 3", None),
        ("summarise data by terminal.region count, mean(records), quantile(0.9, records) where records > 2k", None),
        ("path from n1 to n2 by bandwidth where link_loss_frac < 1%", None),
        ("terminal where surely trust between 0.1 and 0.9 and possibly load_frac < 0.5 and trust is not known", None),
    ],
)
def test_text_is_read_and_written_again(text, written):
    question = parse_question(text)
    again = question_text(question)

    assert parse_question(again) == question
    if written is not None:
        assert again == written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected what is asked for"),
        ("terminals", "no table 'terminals' .*did you mean terminal"),
        ("terminal where regoin = x", "no fact 'regoin'; did you mean region"),
        ("data where terminal.trsut > 1", "terminal has no fact 'trsut'; did you mean trust"),
        ("data where records.trust > 1", "records of data is no reference.*terminal"),
        ("data where terminal = x", "refers to a terminal"),
        ("terminal where access_kind = wify", "never 'wify'; did you mean wifi"),
        ("terminal where region > a", "compared by = and != only"),
        ("terminal where trust > high", "is a number"),
        ("terminal where trust > 1x", "unit that is not known"),
        ("terminal where trust between 2 and 1", "is empty"),
        ("terminal where since(trust) < 1d", "is no moment"),
        ("terminal where surely reachable", "has no deviation"),
        ("terminal where some model_field", "does not refer to terminal; it refers to: model"),
        ("terminal where some link", "say which: some link by from_terminal"),
        ("query where within 5ms of", "is not at a terminal"),
        ("terminal score region", "not a number"),
        ("terminal top 5 by score", "has none"),
        ("terminal top 0", "out of bounds"),
        ("terminal top 1.5", "whole number"),
        ("terminal top 1000000", "out of bounds"),
        ("summarise terminal by trust", "not a category"),
        ("summarise terminal by region sum(region)", "not a number"),
        ("terminal where trust > 1 trust", "expected where, score"),
        ("terminal where (trust > 1", r"expected \)"),
        ("terminal where trust ! 1", "nothing begins so"),
        ("terminal where " + "not " * 9 + "reachable", "expected a condition"),
        ("terminal where " + "(" * 100 + "reachable" + ")" * 100, "brackets"),
        ("terminal where " + " and ".join(["reachable"] * (PARTS_MOST + 1)), "conditions|out of bounds"),
        ("terminal where " + "some data (some data_field by data (" * DEPTH_MOST, "expected|brackets|refer"),
        ("terminal " + "x" * QUESTION_CHARS, "limit"),
    ],
)
def test_wrong_text_says_what_is_wrong_and_what_is_near(text, said):
    with pytest.raises(InputError, match=said):
        parse_question(text)
