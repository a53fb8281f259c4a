"""What of a growing text may be told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daitn.serving.text_out import TextOut


def test_beginning_of_a_stop_is_held_back_until_it_is_known_what_it_is() -> None:
    out = TextOut(("END",))
    assert [out.take(text) for text in ("a E", "a EN", "a ENx", "a ENx END b")] == ["a ", "", "ENx", " "]
    assert out.stopped
    assert out.take("a ENx END b c") == ""


def test_what_was_held_back_is_told_where_the_text_is_over() -> None:
    out = TextOut(("END",))
    assert out.take("a EN") == "a "
    assert out.take("a EN", last=True) == "EN"


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_pieces_are_the_text_before_its_first_stop_however_it_grows(text: str, stops: list[str], data) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    resumed = data.draw(st.booleans())
    out, told = TextOut(stops), ""
    for cut in cuts:
        told += out.take(text[:cut])
        if resumed and not out.stopped:
            out = TextOut(stops, told)
    told += out.take(text, last=True)
    ends = [text.index(stop) for stop in stops if stop in text]
    # Of two stops the one that is whole first ends the text; another may begin before it.
    assert text.startswith(told)
    assert not any(stop in told for stop in stops)
    if not ends:
        assert told == text
