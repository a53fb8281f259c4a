"""The registry: every fact that the map (G-KRRM) holds of anything, by kind and group. Closed: nothing else is a fact.

Paper II-A and II-B name what the topologies are made of; each line here is one of those words with unit, range and
meaning. Reports of facts that are not here, or outside their ranges, are refused. To add a fact is to add a line: a
group's number on the wire goes with its facts, so a group that changes gets a new number.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from daitn.base.errors import InputError
from daitn.base.nearest import nearest_known
from daitn.descriptors.fact_kinds import Fact, Group, Kind
from daitn.descriptors.facts_of_terminals import TERMINAL_GROUPS
from daitn.descriptors.facts_of_things import DATA_GROUPS, MODEL_GROUPS

REGISTRY_VERSION: Final = 3
"""Grows with every change of the registry; snapshots and reports carry it."""

GROUPS: Final[tuple[Group, ...]] = (*TERMINAL_GROUPS, *DATA_GROUPS, *MODEL_GROUPS)
"""All there are."""

BY_NAME: Final = MappingProxyType({group.name: group for group in GROUPS})
BY_NUMBER: Final = MappingProxyType({group.number: group for group in GROUPS})
BY_KIND: Final = MappingProxyType({kind: tuple(group for group in GROUPS if group.kind is kind) for kind in Kind})

_PLACES: Final = {(group.kind, fact.name): (group, fact) for group in GROUPS for fact in group.facts}


def facts_of(kind: Kind) -> tuple[Fact, ...]:
    """All facts of a kind, in the order of its groups."""
    return tuple(fact for group in BY_KIND[kind] for fact in group.facts)


def group_named(name: str) -> Group:
    """The group of that name; InputError naming the nearest known ones."""
    if (group := BY_NAME.get(name)) is None:
        raise InputError(f"no group of facts is called {name[:80]!r}", todo=nearest_known(name, BY_NAME))
    return group


def fact_named(kind: Kind, name: str) -> tuple[Group, Fact]:
    """A fact and its group; InputError naming the column and the nearest known ones."""
    if (place := _PLACES.get((kind, name))) is None:
        known = [fact.name for fact in facts_of(kind)]
        raise InputError(f"{kind.value} has no fact {name[:80]!r}", todo=nearest_known(name, known))
    return place
