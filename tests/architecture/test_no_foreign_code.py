"""Nothing foreign is ever run: no path in the package unpickles, evaluates or sympifies bytes (design, section 11).

Two kinds of proof: the source holds none of the calls that could, and archives that do run code when loaded by the
usual loaders are handed to our own entry points, which refuse them and leave no trace.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import daitn
from daitn.artifacts.graph import HEADER, decode_graph_pair
from daitn.base.errors import DaitnError, PeerError
from daitn.learning.pretrained import build_pretrained

PACKAGE = Path(daitn.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

BANNED_MODULES = frozenset(
    {
        "pickle",
        "_pickle",
        "cPickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
        "jsonpickle",
        "sympy",
        "code",
    }
    | {"codeop", "runpy", "pickletools"}
)
BANNED_BUILTINS = frozenset({"eval", "exec", "compile", "__import__", "execfile"})
BANNED_NAMES = frozenset({"sympify", "parse_expr", "lambdify", "literal_eval_unsafe", "unpickle", "Unpickler"})
BANNED_CALLS = frozenset(
    {
        "torch.load",
        "torch.export.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "torch.hub.load",
        "torch.classes.load_library",
        "torch.ops.load_library",
        "torch.utils.cpp_extension.load",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "importlib.util.spec_from_file_location",
        "importlib.machinery.SourceFileLoader",
        "pandas.read_pickle",
        "pd.read_pickle",
        "numpy.lib.format.read_array",
        "ctypes.CDLL",
        "ctypes.cdll.LoadLibrary",
    }
)
IMPORT_BY_NAME = frozenset({"importlib.import_module", "import_module"})


def imports_of(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, local name and full name of everything imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield (
                    node.lineno,
                    name.asname or name.name.split(".")[0],
                    name.name if name.asname else name.name.split(".")[0],
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for name in node.names:
                yield node.lineno, name.asname or name.name, f"{node.module}.{name.name}"


def dotted(node: ast.AST, known: dict[str, str]) -> str:
    """The full dotted name of an expression, imports resolved; empty for anything else."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, known)
        return f"{owner}.{node.attr}" if owner else node.attr
    return ""


def offences(source: str, name: str) -> list[str]:
    """Every way in which `source` could run foreign bytes, with its line."""
    tree = ast.parse(source)
    known: dict[str, str] = {}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [entry.name for entry in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        found += [f"{name}:{node.lineno} imports {m}" for m in modules if m.split(".")[0] in BANNED_MODULES]
    for line, local, full in imports_of(tree):
        known[local] = full
        if full.rsplit(".", 1)[-1] in BANNED_NAMES or full in BANNED_CALLS:
            found.append(f"{name}:{line} imports {full}")
    own = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call) and loads_nothing(node, known)}
    for node in ast.walk(tree):
        if id(node) in own:
            continue
        if isinstance(node, ast.Name) and node.id in BANNED_BUILTINS:
            if isinstance(node.ctx, ast.Store):  # a field called `eval`
                continue
            found.append(f"{name}:{node.lineno} uses {node.id}")
        elif isinstance(node, (ast.Name, ast.Attribute)):
            full = dotted(node, known)
            last = full.rsplit(".", 1)[-1]
            if full in BANNED_CALLS or last in BANNED_NAMES or full in {f"builtins.{b}" for b in BANNED_BUILTINS}:
                found.append(f"{name}:{node.lineno} uses {full}")
        if isinstance(node, ast.Call):
            found += call_offences(node, dotted(node.func, known), name)
    return found


def loads_nothing(call: ast.Call, known: dict[str, str]) -> bool:
    """`ctypes.CDLL(None)` is the running process itself, for system calls that Python lacks: no file is loaded."""
    first = call.args[0] if call.args else None
    return dotted(call.func, known) == "ctypes.CDLL" and isinstance(first, ast.Constant) and first.value is None


def call_offences(node: ast.Call, full: str, name: str) -> list[str]:
    """What is wrong with one call, given its arguments."""
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if full in ("numpy.load", "np.load"):
        allowed = keywords.get("allow_pickle")
        if not (isinstance(allowed, ast.Constant) and allowed.value is False):
            return [f"{name}:{node.lineno} calls {full} without allow_pickle=False"]
    trusted = keywords.get("trust_remote_code")
    if trusted is not None and not (isinstance(trusted, ast.Constant) and trusted.value is False):
        return [f"{name}:{node.lineno} trusts remote code"]
    if full.endswith(".from_pretrained"):
        return [f"{name}:{node.lineno} calls {full}, which may fetch and unpickle"]
    return []


def test_no_source_of_ours_unpickles_evaluates_or_sympifies():
    assert len(SOURCES) > 10
    found = [fault for path in SOURCES for fault in offences(path.read_text(), str(path.relative_to(PACKAGE)))]
    assert found == []


def test_modules_are_imported_by_name_only_from_constants():
    """`import_module` of anything computed is a way to run what a peer named; the package root has a fixed table."""
    allowed = {"__init__.py"}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        known = {local: full for _, local, full in imports_of(tree)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted(node.func, known) in IMPORT_BY_NAME:
                constant = bool(node.args) and isinstance(node.args[0], ast.Constant)
                assert constant or str(path.relative_to(PACKAGE)) in allowed, f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as cp",
        "eval('1')",
        "f = exec",
        "import builtins\nbuiltins.eval('1')",
        "import torch\ntorch.load('x')",
        "from torch import load\nload('x')",
        "from torch import load as read\nread('x')",
        "import torch as t\nt.export.load('x')",
        "import torch.export\ntorch.export.load('x')",
        "from torch.export import load",
        "import torch\ntorch.jit.load('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "from sympy import sympify",
        "import yaml\nyaml.load('x')",
        "__import__('os')",
        "model = AutoModel.from_pretrained('x')",
        "AutoModel.from_config(c, trust_remote_code=True)",
    ],
)
def test_the_walk_finds_what_it_looks_for(source):
    assert offences(source, "case")


def test_the_walk_lets_ordinary_code_pass():
    source = "import numpy as np\nimport re\nmodel.eval()\nre.compile('a')\nnp.load('x', allow_pickle=False)\n"
    assert offences(source, "case") == []


# --- archives that run code when loaded ------------------------------------------------------------------------------


class Touch:
    """A pickle of this touches a file when loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def make_archive(folder: Path) -> Path:
    """A real `torch.export` archive of a model with an open batch."""
    program = torch.export.export(
        torch.nn.Linear(4, 2),
        (torch.rand(3, 4),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    path = folder / "sound.pt2"
    torch.export.save(program, path)
    return path


def rewritten(archive: Path, name: str, change: Callable[[object], object]) -> Path:
    """The archive with its model description changed."""
    target = archive.with_name(name)
    changed = 0
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(target, "w") as sink:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.endswith(".json") and b"graph_module" in data:
                data = json.dumps(change(json.loads(data))).encode()
                changed += 1
            sink.writestr(entry, data)
    assert changed == 1
    return target


def with_expression(tree: object, code: str) -> object:
    """Every symbolic expression replaced by code, as sympify would evaluate it."""
    if isinstance(tree, dict):
        return {
            key: code if key == "expr_str" and isinstance(value, str) else with_expression(value, code)
            for key, value in tree.items()
        }
    return [with_expression(item, code) for item in tree] if isinstance(tree, list) else tree


def with_guard(tree: object, code: str) -> object:
    """The archive's guards replaced by code, as its loader would execute it."""
    assert isinstance(tree, dict)
    assert "guards_code" in tree
    return {**tree, "guards_code": [code]}


def entries(data: bytes) -> dict[str, Callable[[], object]]:
    """Every entry point of ours that takes a package's bytes."""
    return {
        "graph": lambda: decode_graph_pair(data),
        "graph behind our header": lambda: decode_graph_pair(HEADER + data),
        "configuration": lambda: build_pretrained(data, None, {}),
        "adapter": lambda: build_pretrained(b'{"auto_class":"AutoModel","model_type":"bert","values":{}}', data, {}),
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.mark.parametrize("attack", ["expression", "guard", "pickle"])
def test_archive_that_runs_code_on_loading_is_refused_and_leaves_no_trace(attack, archive, tmp_path):
    marker = tmp_path / "ran"
    code = f"__import__('os').system('touch {marker}')"
    if attack == "expression":
        data = rewritten(archive, "expression.pt2", lambda tree: with_expression(tree, code)).read_bytes()
    elif attack == "guard":
        data = rewritten(archive, "guard.pt2", lambda tree: with_guard(tree, code)).read_bytes()
    else:
        data = pickle.dumps(Touch(marker))
    assert str(marker).encode() in data
    for name, enter in entries(data).items():
        with pytest.raises(DaitnError) as caught:
            enter()
        assert isinstance(caught.value, PeerError), name
    assert not marker.exists()


@pytest.mark.parametrize("attack", ["expression", "guard", "pickle"])
def test_the_attacks_are_real_the_usual_loaders_run_them(attack, archive, tmp_path):
    """Else the test above would prove nothing."""
    marker = tmp_path / "ran"
    code = f"__import__('os').system('touch {marker}')"
    if attack == "pickle":
        pickle.loads(pickle.dumps(Touch(marker)))
    else:
        change = with_expression if attack == "expression" else with_guard
        path = rewritten(archive, f"real_{attack}.pt2", lambda tree: change(tree, code))
        with contextlib.suppress(Exception):  # what the loader says afterwards does not matter
            torch.export.load(path).module()(torch.rand(3, 4))
    assert marker.exists()
