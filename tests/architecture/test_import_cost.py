"""What an import costs: a notebook starts at once, and a control-plane node never loads torch."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

import pytest

IMPORT_S = 0.3
"""Processor time of `import daitn`, above starting Python: others on the machine do not count."""

RUNS = 5

HEAVY = ("torch", "transformers", "pandas", "sklearn")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_importing_the_package_is_cheap():
    code = "import time; began = time.process_time(); import daitn; print(time.process_time() - began)"

    assert median(float(run(code)) for _ in range(RUNS)) <= IMPORT_S


@pytest.mark.parametrize(
    "module",
    [
        "daitn",
        "daitn.control_center.center",
        "daitn.node.center_node",
        "daitn.node.center_service",
        "daitn.node.enrolment",
        "daitn.node.fabric.router",
        "daitn.node.http.api",
        "daitn.cli.main",
        "daitn.sdk.network",
        "daitn.simulation.run",
    ],
)
def test_control_plane_loads_nothing_that_learns(module):
    loaded = run(f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])")

    assert loaded.split() == []


def test_names_for_notebooks_are_loaded_on_first_use():
    code = "import sys, daitn; print('daitn.descriptors.request' in sys.modules); daitn.Request; print(dir(daitn))"
    first, names = run(code).splitlines()

    assert first == "False"
    assert "connect" in names


def test_unknown_name_is_an_attribute_error():
    assert run("import daitn\ntry:\n    daitn.nothing\nexcept AttributeError as error:\n    print(error)").strip()
