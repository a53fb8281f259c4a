"""Names: no drawers for odds and ends, whole words, one word for one meaning."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import daitn
from daitn.base.effects import Effect, Event, Message, Record
from daitn.base.errors import DaitnError

ROOT = Path(daitn.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
DRAWERS = {"utils", "util", "common", "helpers", "helper", "misc", "tools_common", "shared", "lib"}
PAST = re.compile(r"[a-z](ed|ade|aken|iven|one|oken|ent|eft|ost|ound|egun)$")
"""How the events and records of this package end: `…Changed`, `VisitTaken`, `NodeLeft`, `VisitLost`, `ModelGone`."""

UNITS = re.compile(r"_(seconds|milliseconds|nanoseconds|megabytes|mb|kb|gb|secs|sec|msec|millis)$")
"""Units that are written otherwise here: `_s`, `_ms`, `_ns`, `_bytes`."""

CORES = ("base", "control_center", "terminal", "topology")


def classes_of(kind: type) -> list[type]:
    """Every subclass of `kind` in the cores."""
    found: set[type] = set()
    for package in CORES:
        for info in pkgutil.walk_packages([str(ROOT / package)], f"daitn.{package}."):
            module = importlib.import_module(info.name)
            for _, one in inspect.getmembers(module, inspect.isclass):
                if issubclass(one, kind) and one.__module__ == info.name and one is not kind:
                    found.add(one)
    return sorted(found, key=lambda one: one.__name__)


def test_no_module_is_a_drawer():
    assert not [path for path in SOURCES if path.stem in DRAWERS or path.parent.name in DRAWERS]


@pytest.mark.parametrize("event", classes_of(Event), ids=lambda one: one.__name__)
def test_events_are_past_tense(event):
    assert PAST.search(event.__name__), event.__name__


@pytest.mark.parametrize("effect", classes_of(Effect), ids=lambda one: one.__name__)
def test_effects_are_not_past_tense(effect):
    allowed = {"NodeLeft", "JobChanged", "Send"}
    """Two that tell the world outside what has become of a node or a job; and an imperative that only looks past."""

    assert effect.__name__ in allowed or not PAST.search(effect.__name__), effect.__name__


@pytest.mark.parametrize("kind", [Effect, Event, Message, Record, DaitnError])
def test_classes_of_the_cores_say_what_they_are(kind):
    assert [one.__name__ for one in classes_of(kind) if not (one.__doc__ or "").strip()] == []


def test_errors_end_in_error():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(base, ast.Name) and base.id.endswith("Error") for base in node.bases
            ):
                assert node.name.endswith("Error"), f"{path.name}: {node.name}"


def test_units_of_values_that_travel_are_spelled_one_way():
    for name in ("contract", "job", "outcome", "plan", "policy", "request", "terminals", "view", "work"):
        module = importlib.import_module(f"daitn.descriptors.{name}")
        for _, one in inspect.getmembers(module, inspect.isclass):
            for field in getattr(one, "__struct_fields__", ()):
                assert not UNITS.search(field) or field in ("batch_seconds",), f"{one.__name__}.{field}"


def test_every_module_opens_with_what_it_is():
    silent = [path for path in SOURCES if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))]

    assert silent == []


def test_each_decision_has_a_number_of_its_own_and_says_it() -> None:
    decisions = sorted((ROOT.parents[1] / "docs" / "decisions").glob("*.md"))
    numbers = [path.name[:4] for path in decisions]
    assert len(set(numbers)) == len(numbers), "the next free number is the last one's and one more"
    for path, number in zip(decisions, numbers, strict=True):
        assert path.read_text().startswith(f"# {number}"), path.name
