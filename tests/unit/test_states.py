"""State tables: a missing pair is an error and no change."""

from __future__ import annotations

from enum import StrEnum

import pytest

from daitn.base.errors import BugError
from daitn.base.states import StateTable


class Light(StrEnum):
    """A traffic light that can break."""

    RED = "red"
    GREEN = "green"
    BROKEN = "broken"


TABLE = StateTable(
    "light",
    {Light.RED: {"go": Light.GREEN, "hit": Light.BROKEN}, Light.GREEN: {"stop": Light.RED}, Light.BROKEN: {}},
)


def test_transition_in_the_table_gives_the_next_state():
    assert TABLE.next(Light.RED, "go", "north") is Light.GREEN
    assert TABLE.permits(Light.RED, "go")


@pytest.mark.parametrize(("state", "event"), [(Light.RED, "stop"), (Light.BROKEN, "go"), (Light.GREEN, "")])
def test_transition_not_in_the_table_names_subject_state_and_event(state, event):
    assert not TABLE.permits(state, event)
    with pytest.raises(BugError, match=f"light north is {state.value}: no transition for '{event}'"):
        TABLE.next(state, event, "north")


def test_final_states_have_no_way_out():
    assert [state for state in Light if TABLE.is_final(state)] == [Light.BROKEN]


def test_table_does_not_change_with_what_it_was_made_from():
    rows = {Light.RED: {"go": Light.GREEN}}
    table = StateTable("light", rows)
    rows[Light.RED].clear()

    assert table.permits(Light.RED, "go")


def test_diagram_has_one_line_for_each_transition():
    lines = TABLE.render_mermaid().splitlines()

    assert lines[0] == "stateDiagram-v2"
    assert "    red --> green: go" in lines
    assert len(lines) == 4
