"""docs/paper-map.md says what the tests here show, and no more. `python -m tests.paper.test_map` writes it anew."""

from __future__ import annotations

import importlib
from pathlib import Path

from tests.paper import (
    test_freshness,
    test_inference_network,
    test_private_descriptions,
    test_tools_layer,
    test_training_network,
)
from tests.paper.claims import CLAIMS

MODULES = (
    test_training_network,
    test_tools_layer,
    test_freshness,
    test_private_descriptions,
    test_inference_network,
)
PARTS = [f"{part.__name__.rpartition('.')[2]}.py" for part in MODULES]
"""Files of the tests in the order of the page; which is imported first is for pytest to say."""

PAGE = Path(__file__).parents[2] / "docs" / "paper-map.md"

HEAD = """# The paper's claims, and what shows them

*Distributed Learning and Inference Systems: A Networking Perspective* in our words, claim by claim: who carries it and
which test shows it (`tests/paper`). Made from the tests by `python -m tests.paper.test_map`; a test fails where this
page and they differ. What is not here is not built yet.

| section | claim | carried by | shown by |
|---|---|---|---|
"""


def page() -> str:
    """The page as the tests make it."""
    rows = [
        f"| {one.section} | {one.says} | {', '.join(f'`{name}`' for name in one.names)} | `tests/paper/{one.test}` |"
        for one in sorted(CLAIMS, key=lambda one: PARTS.index(one.test.partition("::")[0]))
    ]
    return HEAD + "\n".join(rows) + "\n"


def test_page_says_what_the_tests_show():
    assert PAGE.read_text() == page(), "run: python -m tests.paper.test_map"


def test_every_name_in_the_page_can_be_imported():
    for name in {name for one in CLAIMS for name in one.names}:
        module, _, rest = name, "", []
        while True:
            try:
                found = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, _, last = module.rpartition(".")
                rest = [last, *rest]
        for part in rest:
            found = getattr(found, part)


def test_claims_are_those_of_the_training_network():
    shown = [name for one in MODULES for name, test in vars(one).items() if name.startswith("test_") and callable(test)]
    assert len(CLAIMS) >= len(shown)


if __name__ == "__main__":
    PAGE.write_text(page())
