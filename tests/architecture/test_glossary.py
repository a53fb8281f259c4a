"""The glossary: every name it gives for a word of the paper can be imported."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

GLOSSARY = Path(__file__).parent.parent.parent / "docs" / "glossary.md"
ROWS = [line for line in GLOSSARY.read_text().splitlines() if line.startswith("| ") and "`daitn." in line]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`(daitn\.[\w.]+)`", row)})


def resolve(dotted: str) -> object:
    """A module, or something in one."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for part in parts[split:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"{dotted} is nothing")


@pytest.mark.parametrize("name", NAMES)
def test_name_can_be_imported_and_says_what_it_is(name):
    assert (resolve(name).__doc__ or "").strip()


def test_acronyms_of_the_paper_stand_in_the_docstring_of_what_carries_them():
    for acronym in ("DCC", "T-FAM", "G-KRRM", "MS-DRRT", "MPVU", "HPO"):
        rows = [row for row in ROWS if acronym in row.split("|")[1]]
        assert rows, acronym
        docs = " ".join(
            str(resolve(name).__doc__) + str(resolve(name.rpartition(".")[0]).__doc__)
            for row in rows
            for name in re.findall(r"`(daitn\.[\w.]+)`", row)
        )
        assert acronym in docs, acronym


def test_every_word_is_explained_once():
    words = [row.split("|")[1].strip() for row in GLOSSARY.read_text().splitlines() if row.startswith("| ")]

    assert len(words) == len(set(words))
    assert len(NAMES) > 20
