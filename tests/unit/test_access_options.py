"""What people write of a node's access becomes facts, or an error that says what was wrong and what to write."""

from __future__ import annotations

import pytest

from daitn.base.errors import InputError
from daitn.cli.access import host_policy, parse_access, parse_window
from daitn.descriptors.access import Access, AccessKind, Window, is_open
from daitn.descriptors.host_policy import HostPolicy
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import Role
from daitn.node.node_config import NodeConfig, NodeFolder
from daitn.node.processes import access_arguments, tariff_arguments


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


@pytest.mark.parametrize(
    "access",
    [
        Access(),
        Access(kind=AccessKind.WIFI),
        Access(kind=AccessKind.CELLULAR, metered=False, bytes_per_s=5e6),
        Access(
            kind=AccessKind.SATELLITE,
            metered=True,
            windows=(
                Window(start_unix_s=1_700_000_000.25, seconds=600, every_s=5700),
                Window(start_unix_s=1_800_000_000, seconds=0.5),
            ),
        ),
    ],
    ids=["usual", "wifi", "unmetered", "passes"],
)
def test_access_of_a_scenario_reaches_its_node_as_options_unchanged(access):
    given = access_arguments(access)
    kind, metered, rate, windows = "wireline", None, "", []
    left = list(given)
    while left:
        option = left.pop(0)
        match option:
            case "--metered" | "--unmetered":
                metered = option == "--metered"
            case "--access":
                kind = left.pop(0)
            case "--rate":
                rate = left.pop(0)
            case "--window":
                windows.append(left.pop(0))

    assert parse_access(kind, metered, rate, windows) == access


def test_tariff_of_a_scenario_reaches_its_node_as_options():
    assert tariff_arguments(Tariff()) == []
    assert tariff_arguments(Tariff(price_per_hour=0.0, watts=65.5)) == ["--price-per-hour", "0.0", "--watts", "65.5"]


def test_policy_of_a_host_is_what_its_options_say():
    key = "AB" * 32
    policy = host_policy(["ada", "bob"], [key], None, "5MB")
    assert policy == HostPolicy(owners=("ada", "bob"), signers=(key.lower(),), model_bytes_most=5_000_000)
    assert host_policy(None, None, ["MIT"], "") == HostPolicy(licences=("MIT",))
    with pytest.raises(InputError, match="'abc' is no key"):
        host_policy(None, ["abc"], None, "")
    with pytest.raises(InputError, match="no policy of a host"):
        host_policy([""], None, None, "")
