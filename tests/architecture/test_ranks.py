"""Who may import whom: the contracts in `pyproject.toml`, checked as `lint-imports` does."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import daitn

ROOT = Path(__file__).parent.parent.parent
PACKAGES = {path.name for path in Path(daitn.__file__).parent.iterdir() if (path / "__init__.py").exists()}


def contracts() -> list[dict]:
    """The contracts as declared."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_imports_keep_every_contract():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{len(contracts())} kept, 0 broken" in done.stdout


def test_every_package_has_a_rank():
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    ranked = {name.strip() for layer in layers for name in layer.split("|")}

    assert ranked >= PACKAGES


def test_every_package_below_the_numerics_is_kept_from_torch():
    (contract,) = [one for one in contracts() if one.get("forbidden_modules") == ["torch"]]
    kept = {name.removeprefix("daitn.") for name in contract["source_modules"]}

    assert PACKAGES - kept <= {"learning", "node", "sdk", "cli", "demo"}
