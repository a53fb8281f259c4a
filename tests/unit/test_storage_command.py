"""`daitn store` and the quota of a site: what whoever keeps the machine is shown, and sizes as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.base.errors import InputError
from daitn.base.units import parse_bytes
from daitn.cli.main import run
from daitn.descriptors.terminals import Role
from daitn.node import commands
from daitn.node.node_config import NodeConfig, NodeFolder
from daitn.node.store import ChunkStore


@pytest.fixture
def node(tmp_path: Path) -> NodeFolder:
    """An enrolled node that keeps one model for a job."""
    here = NodeFolder(tmp_path / "north")
    here.make()
    here.save(NodeConfig(name="north", roles=(Role.DATA,), store_bytes=10_000_000))
    layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=(250_000,), role="record")])
    draft = Manifest(
        kind="records", name="ward 7", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    store = ChunkStore(here.store, 10_000_000)
    store.put_artifact(draft, {}, {"w": bytes(1_000_000)}, pin="job-1")
    store.close()
    return here


def test_store_is_shown_as_a_document(node: NodeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", str(node.folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    (pack,) = shown["packs"]
    assert (pack["name"], pack["pins"], pack["goes"], pack["servable"]) == ("ward 7", ["job-1"], None, True)
    assert shown["quota_bytes"] == 10_000_000
    assert shown["room_bytes"] == 10_000_000 - shown["used_bytes"]


def test_store_is_shown_to_people(node: NodeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", str(node.folder)]) == 0
    text = capsys.readouterr().out
    assert "1.0 MB of 10.0 MB used, 1.0 MB kept for jobs; room for 9.0 MB" in text
    for word in ("stays", "ward 7", "job-1", "records"):
        assert word in text


def test_store_of_a_folder_that_is_no_nodes_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["store", str(tmp_path), "--json"]) == 2
    assert "has no node.json" in json.loads(capsys.readouterr().out)["error"]["what"]


def test_quota_of_an_enrolled_node_is_changed_at_its_start(node: NodeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run_until_signal", lambda _: None)

    commands.run_join(node.folder, None, "north", ["data"], lambda _: None, store_bytes=5_000_000, slots=7)

    assert node.load() == NodeConfig(name="north", roles=(Role.DATA,), store_bytes=5_000_000)


@pytest.mark.parametrize(
    ("text", "size"),
    [("10GB", 10**10), ("1.5 TiB", 3 * 2**39), ("500 mb", 500_000_000), ("4096", 4096), ("1B", 1)],
)
def test_size_is_read_as_people_write_it(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "ten", "10 GHz", "-5GB", "0GB", "1e9", "5 GB of disk", "9" * 400])
def test_size_that_is_none_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match="is not a size; write a number and a unit"):
        parse_bytes(text)
