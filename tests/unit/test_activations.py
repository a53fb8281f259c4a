"""Frozen bases at a site, and the activations kept of them: digests, limits, policy, wiping."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.text_world import embedded_contract, write_base, write_site

from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import JobId
from daitn.describe.column_map import ColumnMap
from daitn.learning.records import encode_inputs
from daitn.node.activations import ActivationCache
from daitn.node.bases import BaseShelf
from daitn.node.datasets import DataShelf
from daitn.node.sandbox.launcher import Sandbox
from daitn.node.sandbox.visits import VisitError
from daitn.node.site_files import load_policy

pytest.importorskip("transformers")

JOB = JobId("job-1")


class Site:
    """A shelf with one data set, a base, and a cache."""

    def __init__(self, folder: Path, *, stays: str = "job", limit: int = 2**20, width: int = 16) -> None:
        self.bases = BaseShelf(folder / "bases")
        self.base = self.bases.add(write_base(folder / "source"))
        contract = embedded_contract(self.base.digest)
        inputs = tuple(msgspec.structs.replace(one, width=width) for one in contract.inputs)
        self.contract = msgspec.structs.replace(contract, inputs=inputs)
        files = write_site(folder / "data", "north", contract, foci=10, stays=stays)
        self.shelf = DataShelf(folder / "shelf", bytes(32))
        self.shelf.add("texts", files.data, contract, load_policy(files.policy), ColumnMap())
        self.cache = ActivationCache(folder / "activations", self.shelf, self.bases, limit)

    def make(self, job: JobId = JOB) -> Path | None:
        return asyncio.run(self.cache.make("texts", self.contract, Sandbox(), job=job))


def test_base_added_twice_is_one_and_another_has_another_digest(tmp_path: Path) -> None:
    shelf = BaseShelf(tmp_path / "bases")
    first = shelf.add(write_base(tmp_path / "one"))
    assert shelf.add(tmp_path / "one") == first
    assert shelf.add(write_base(tmp_path / "two", seed=1)).digest != first.digest
    assert len(shelf.bases()) == 2
    shelf.remove(first.digest[:8])
    with pytest.raises(InputError, match="not at this site"):
        shelf.path(first.digest)


def test_base_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (write_base(tmp_path / "one") / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        BaseShelf(tmp_path / "bases").add(tmp_path / "one")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"\x80\x04cos\nsystem\n.", "is a pickle"),
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "made by torch.save"),
        ((1 << 60).to_bytes(8, "little") + b"{}", "says its header has 1152921504606846976 bytes"),
        (b"short", "has 5 bytes"),
    ],
    ids=["pickle", "torch", "header", "short"],
)
def test_base_whose_weights_are_something_else_is_refused_and_nothing_of_it_stays(
    tmp_path: Path, data: bytes, fault: str
) -> None:
    (write_base(tmp_path / "one") / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=fault) as refused:
        BaseShelf(tmp_path / "bases").add(tmp_path / "one")
    assert refused.value.todo
    assert not (tmp_path / "bases").exists()


def test_activations_are_made_once_and_are_what_the_base_computes(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    from daitn.learning.bases import FrozenBase

    site = Site(tmp_path)
    folder = site.make()
    assert folder is not None
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.f16")}
    assert site.make(JobId("job-2")) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.f16")} == stamps
    table = site.shelf.table("texts")
    inputs = encode_inputs(
        table, site.contract, np.arange(table.rows), vectors=site.cache.vectors("texts", site.contract)
    )
    text = table.texts("question").text(3)
    tokens = torch.tensor([FrozenBase(site.bases.path(site.base.digest))._encode([text], 16)[0]])
    model = AutoModel.from_pretrained(tmp_path / "source", local_files_only=True).eval()
    with torch.no_grad():
        expected = model(tokens).last_hidden_state.mean(dim=1)[0].numpy()
    assert np.allclose(inputs["question"][3], expected, atol=2e-3)
    assert sum(one.size_bytes for one in site.cache.cached()) == 2 * 20 * 16 * 2


def test_activations_of_one_column_that_are_gone_are_made_again_alone(tmp_path: Path) -> None:
    site = Site(tmp_path)
    folder = site.make()
    assert folder is not None
    lost, kept = sorted(folder.glob("*.f16"))
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.with_suffix(".json").unlink()
    lost.write_bytes(bytes(len(before)))
    site.make()
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    assert [one.column for one in site.cache.cached()] == ["answer", "question"]


def test_activations_with_policy_job_are_wiped_with_the_last_job(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.make()
    site.make(JobId("job-2"))
    assert site.cache.end_job(JOB) == ()
    assert len(site.cache.end_job(JobId("job-2"))) == 2
    assert site.cache.cached() == ()


def test_activations_with_policy_keep_stay_until_their_data_goes(tmp_path: Path) -> None:
    site = Site(tmp_path, stays="keep")
    site.make()
    assert site.cache.end_job(JOB) == ()
    assert len(site.cache.cached()) == 2
    site.shelf.remove("texts")
    site.cache.sweep()
    assert site.cache.cached() == ()


def test_activations_with_policy_no_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="keeps no activations"):
        Site(tmp_path, stays="no").make()


def test_activations_beyond_the_limit_are_refused_with_sizes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="take 1280 bytes, this site has 600 of 600 left"):
        Site(tmp_path, limit=600).make()


def test_activations_of_another_width_than_the_base_has_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path, width=24)
    with pytest.raises(VisitError, match="gives 16 numbers a text, the contract says 24"):
        site.make()
    assert not list((tmp_path / "activations").glob("*/*.f16"))


def test_records_without_their_activations_say_what_is_missing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with pytest.raises(InputError, match="are not at hand"):
        encode_inputs(site.shelf.table("texts"), site.contract, np.arange(2))
