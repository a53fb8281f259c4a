"""What people write of a node's access becomes facts, or an error that says what was wrong and what to write."""

from __future__ import annotations

import pytest

from daitn.base.errors import InputError
from daitn.cli.access import parse_access, parse_window
from daitn.descriptors.access import AccessKind, is_open
from daitn.descriptors.terminals import Role
from daitn.node.node_config import NodeConfig, NodeFolder


def test_satellite_with_passes_is_metered_and_there_in_its_windows():
    access = parse_access("satellite", None, "2MB", ["2026-12-01T08:00Z for 10 min every 95 min"])

    assert (access.kind, access.metered, access.bytes_per_s) == (AccessKind.SATELLITE, True, 2e6)
    start_s = access.windows[0].start_unix_s
    assert [is_open(access, start_s + minutes * 60) for minutes in (-1, 0, 9, 11, 96)] == [
        *(False, True, True, False, True),
    ]


def test_metered_is_by_the_kind_unless_it_is_said():
    assert parse_access("cellular", None, "", ()).metered
    assert not parse_access("wifi", None, "", ()).metered
    assert not parse_access("cellular", False, "", ()).metered


@pytest.mark.parametrize(
    ("kind", "rate", "window", "what"),
    [
        ("carrier-pigeon", "", "", "there is no access 'carrier-pigeon'"),
        ("wifi", "10kB", "", "less than transfers need"),
        ("wifi", "fast", "", "'fast' is not a size"),
        ("wifi", "", "tomorrow for 10 min", "'tomorrow for 10 min' is not a window"),
        ("wifi", "", "2026-12-01T08:00 for 10 min", "is not a window"),
        ("wifi", "", "2026-12-01T08:00Z for ever", "'ever' is not a length"),
        ("wifi", "", "2026-12-01T08:00Z for 0 s", "out of range"),
        ("wifi", "", "2026-12-01T08:00Z for 2 h every 1 h", "never ends"),
    ],
)
def test_what_cannot_be_an_access_is_refused_with_the_reason(kind, rate, window, what):
    with pytest.raises(InputError, match=what) as error:
        parse_access(kind, None, rate, [window] if window else ())
    assert error.value.todo


def test_window_goes_through_the_configuration_unchanged(tmp_path):
    access = parse_access("satellite", True, "", ["2026-12-01T08:00+01:00 for 600 s"])
    folder = NodeFolder(tmp_path)
    folder.save(NodeConfig(name="n", roles=(Role.DATA,), access=access))

    assert folder.load().access == access
    assert access.windows[0] == parse_window("2026-12-01T07:00Z for 10 min")
