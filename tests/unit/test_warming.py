"""Getting ready for a likely visit: only with parts signed by whom the warrant names, and samples that stay private."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.builders import JOB, PACKAGE, make_warrant

from daitn.artifacts.codec import complete_manifest
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.signatures import load_or_create_key, public_hex, sign_parts
from daitn.base.errors import UnavailableError
from daitn.base.ids import ArtifactId, DataSetId, NodeId
from daitn.descriptors.work import SampleRef
from daitn.node.warming import Warming
from daitn.wire.center_tools import InputRef, VisitPrepare

SAMPLES = tuple(
    SampleRef(dataset=DataSetId(f"{name}/records"), artifact=ArtifactId(name * 32), holder=NodeId(name), records=20)
    for name in ("s1", "s2")
)


class Site:
    """A node whose transfers and children only note what they are asked for."""

    def __init__(self, tmp_path: Path) -> None:
        self.key = load_or_create_key(tmp_path / "owner.key")
        draft = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
        parts = {"graph": b"graph", "contract": b"contract"}
        self.manifest = sign_parts(complete_manifest(draft, parts, {}), self.key)
        self.parts = parts
        self.fetched: list[tuple[ArtifactId, str, bool]] = []
        self.warmed: list[tuple[object, ...]] = []
        self.away = False
        moving = SimpleNamespace(fetch_parts=self.fetch_parts, fetch=self.fetch)
        children = SimpleNamespace(warm_measuring=self.warm)
        self.warming = Warming(moving, SimpleNamespace(list=list), children, SimpleNamespace())

    async def fetch_parts(self, _wanted: InputRef) -> tuple[Manifest, dict[str, bytes]]:
        return self.manifest, self.parts

    async def fetch(self, wanted: InputRef, pin: str, *, servable: bool, job: str) -> int:
        assert job == pin
        if self.away:
            raise UnavailableError("nobody answers")
        self.fetched.append((wanted.artifact, pin, servable))
        return 1

    async def warm(self, *given: object) -> None:
        self.warmed.append(given)

    def hear(self, **changes: object) -> None:
        inputs = tuple(InputRef(artifact=one.artifact, holders=(), grant="g") for one in SAMPLES)
        values = {
            "job": JOB,
            "package": InputRef(artifact=PACKAGE, holders=(), grant="g", parts_only=True),
            "warrant": make_warrant(signer=public_hex(self.key)),
            "dataset": None,
            "verify": True,
            "samples": SAMPLES,
            "inputs": inputs,
        }
        asyncio.run(self.warming.warm(VisitPrepare(**(values | changes))))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_unit_fetches_its_samples_to_be_served_to_nobody_and_warms_a_child_on_them(site: Site) -> None:
    site.hear()

    assert site.fetched == [(one.artifact, JOB, False) for one in SAMPLES]
    assert site.warmed == [(JOB, site.manifest, site.parts, SAMPLES)]


def test_package_signed_by_another_warms_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    site.hear(warrant=make_warrant(signer="0" * 64))

    assert (site.fetched, site.warmed) == ([], [])
    assert "the warrant names 0000000000000000" in caplog.text


def test_sample_that_cannot_be_fetched_is_no_harm(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    site.away = True

    site.hear()

    assert site.warmed == []
    assert "nobody answers" in caplog.text


def test_data_set_that_is_not_here_warms_nothing(site: Site) -> None:
    site.hear(verify=False, dataset=DataSetId("elsewhere/records"))

    assert (site.fetched, site.warmed) == ([], [])
