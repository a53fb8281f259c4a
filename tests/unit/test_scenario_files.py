"""Scenario files: what is read, and that every fault is listed at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daitn.base.errors import InputError
from daitn.descriptors.policy import Policy
from daitn.descriptors.terminals import Role
from daitn.scenario.files import load_scenario, policy_toml, toml_value

GOOD = """
name = "two clinics"
domain = "clinics"
patience_s = 2.0

[[nodes]]
name = "alder"
operator = "alder-hospital"
roles = ["data", "compute"]
slots = 2
[[nodes.data]]
name = "cells"
path = "cells.csv"
contract = "cells.json"
policy = "cells.policy.toml"

[[nodes]]
name = "notary"
operator = "notary-office"
roles = ["verification"]

[[jobs]]
owner = "mira"
name = "screening"
contract = "cells.json"
targets = ["accuracy >= 0.9"]
deadline_s = 60.0
purpose = "diagnosis-support"

[faults]
loss = 0.1
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "cells.csv").write_text("a;b\n1;2\n")
    (tmp_path / "cells.json").write_text("{}")
    (tmp_path / "cells.policy.toml").write_text('owners = ["mira"]\nsample_frac = 0.2\n')
    return tmp_path


def write(here: Path, text: str, name: str = "scenario.toml") -> Path:
    path = here / name
    path.write_text(text, encoding="utf-8")
    return path


def test_good_file_becomes_a_scenario_with_absolute_paths(here: Path) -> None:
    scenario = load_scenario(write(here, GOOD))
    assert scenario.domain == "clinics"
    assert scenario.faults.loss == 0.1
    alder = scenario.nodes[0]
    assert alder.roles == (Role.DATA, Role.COMPUTE)
    assert alder.data[0].path == str(here / "cells.csv")
    assert alder.data[0].policy == Policy(owners=("mira",), sample_frac=0.2)
    assert scenario.jobs[0].contract == str(here / "cells.json")


def test_json_is_read_too(here: Path) -> None:
    table = {"name": "one", "nodes": [{"name": "a", "operator": "b", "roles": ["compute"]}]}
    assert load_scenario(write(here, json.dumps(table), "scenario.json")).nodes[0].name == "a"


def test_all_faults_are_listed_at_once(here: Path) -> None:
    bad = (
        GOOD.replace('roles = ["verification"]', 'roles = ["judge"]')
        .replace('path = "cells.csv"', 'path = "gone.csv"')
        .replace("slots = 2", "slots = 0\ncolour = 3")
        .replace("deadline_s = 60.0\n", "")
        .replace("loss = 0.1", "loss = 1.5")
    )
    with pytest.raises(InputError) as caught:
        load_scenario(write(here, bad))
    for said in ("gone.csv", "colour is unknown", "slots", "roles", "deadline_s is missing", "faults.loss"):
        assert said in caught.value.what


def test_contradictions_are_found_where_all_values_are_right(here: Path) -> None:
    bad = GOOD.replace('name = "notary"', 'name = "alder"').replace(
        'roles = ["data", "compute"]', 'roles = ["compute"]'
    )
    with pytest.raises(InputError) as caught:
        load_scenario(write(here, bad))
    assert "two nodes are called 'alder'" in caught.value.what
    assert "not the role 'data'" in caught.value.what


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("= 3", "a.toml", "not TOML"),
        ("[1", "a.json", "not JSON"),
        ("[1]", "a.json", "not a table"),
        ("", "a.toml", "name"),
    ],
)
def test_what_is_no_scenario_is_refused(here: Path, text: str, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_scenario(write(here, text, name))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_scenario(tmp_path / "none.toml")


def test_written_policy_is_read_back(here: Path) -> None:
    policy = Policy(owners=("mira", 'o"dd'), purposes=("*",), sample_frac=0.25, epsilon_per_period=2.0)
    (here / "cells.policy.toml").write_text(policy_toml(policy), encoding="utf-8")
    assert load_scenario(write(here, GOOD)).nodes[0].data[0].policy == policy


def test_toml_values_quote_odd_keys() -> None:
    assert toml_value({"plain": 1, "mit Öl": [True, "a\nb"]}) == '{plain = 1, "mit Öl" = [true, "a\\nb"]}'
