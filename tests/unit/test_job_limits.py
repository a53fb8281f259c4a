"""Limits of a domain's jobs: what owners may ask for, how operators say it, and that the centre goes by it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.builders import Bench, bench, make_package, make_request
from tests.unit.test_center_service import CONTRACT, GRAPH, package, upload

from daitn.artifacts.codec import encode_manifest
from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import ArtifactId, JobId, OwnerId
from daitn.base.units import MIB
from daitn.cli.main import run
from daitn.control_center.training.commands import CancelAsked
from daitn.descriptors.job import Phase
from daitn.descriptors.job_limits import JobLimits, parse_priorities
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.request import Request
from daitn.node.center_node import config_of
from daitn.node.center_service import CenterService
from daitn.node.domain_folder import DomainFolder, init_domain
from daitn.node.store import ChunkStore

ADA, BOB = OwnerId("ada"), OwnerId("bob")
JOB = JobId("job")


def door(limits: JobLimits) -> CenterService:
    """The owners' door with one running job of Ada's."""
    state = SimpleNamespace(owner=ADA, ended=False, phase=Phase.RUNNING, request=make_request(), package=make_package())
    core: Any = SimpleNamespace(jobs={JOB: SimpleNamespace(state=state)})
    runner: Any = SimpleNamespace(check_going=lambda: None)
    nothing: Any = None
    return CenterService(core, runner, nothing, nothing, nothing, nothing, nothing, nothing, nothing, limits)


class Entrance(NamedTuple):
    """The owners' door to a centre's core, with a package in its store."""

    made: Bench
    door: CenterService
    package: ArtifactId

    def submit(self, key: str = "", owner: OwnerId = ADA, **changes: Any) -> JobId:
        """A request, as it comes over HTTP."""
        request = make_request(package=self.package, **changes)
        return asyncio.run(self.door.submit(owner, request, key))


@pytest.fixture
def entrance(tmp_path: Path) -> Iterator[Entrance]:
    """Two jobs of one owner may be there; Ada may be more urgent than others."""
    made = bench()
    runner: Any = SimpleNamespace(post=made.give, check_going=lambda: None)
    nothing: Any = None
    limits = JobLimits(per_owner=2, priority_most=4, priorities={ADA: 6})
    with closing(ChunkStore(tmp_path / "store", quota_bytes=8 * MIB)) as store:
        rest = (nothing, nothing, nothing, nothing, nothing, nothing)
        opened = CenterService(made.center, runner, store, *rest, limits)
        upload(opened, GRAPH, CONTRACT)
        yield Entrance(made, opened, opened.put_manifest(encode_manifest(package())))


def test_submission_above_the_owners_priority_is_refused_and_makes_no_job(entrance: Entrance) -> None:
    with pytest.raises(PolicyError, match="priority 7 is more than ada may give a job, 6"):
        entrance.submit(priority=7)
    with pytest.raises(PolicyError, match="priority 5 is more than bob may give a job, 4") as refused:
        entrance.submit(owner=BOB)
    assert "--priority bob=5" in refused.value.todo
    assert not entrance.made.center.jobs

    job = entrance.submit(priority=6)

    assert entrance.made.center.jobs[job].state.request.priority == 6


def test_submission_beyond_the_owners_count_is_refused_until_a_job_has_ended(entrance: Entrance) -> None:
    first, second = entrance.submit("one"), entrance.submit("two")
    with pytest.raises(PolicyError, match="ada has 2 jobs that have not ended, the limit is 2"):
        entrance.submit("three")
    assert entrance.submit("two") == second  # the same again is no further job
    entrance.submit(owner=BOB, priority=4)

    entrance.made.give(CancelAsked(job=first))

    assert entrance.submit("three") in entrance.made.center.jobs


def test_owner_may_ask_for_as_much_as_the_operator_says():
    limits = JobLimits(priority_most=4, priorities={BOB: 9})
    limits.check_priority(ADA, 4)
    limits.check_priority(BOB, 9)
    with pytest.raises(PolicyError, match="priority 5 is more than ada may give a job, 4"):
        limits.check_priority(ADA, 5)


def test_owner_with_as_many_jobs_as_may_be_is_told_the_limit():
    limits = JobLimits(per_owner=2)
    limits.check_count(ADA, 1)
    with pytest.raises(PolicyError, match="ada has 2 jobs that have not ended, the limit is 2"):
        limits.check_count(ADA, 2)


def test_running_job_is_not_raised_above_what_its_owner_may():
    with pytest.raises(PolicyError, match="priority 9"):
        asyncio.run(door(JobLimits()).change(ADA, JOB, make_request(priority=9)))


@pytest.mark.parametrize(("name", "value"), [("method", "gossip"), ("privacy", Privacy(epsilon=1.0))])
def test_change_that_would_not_be_made_is_refused_by_name(name: str, value: object):
    request: Request = msgspec.structs.replace(make_request(), **{name: value})
    with pytest.raises(InputError, match=f"cannot change its {name}"):
        asyncio.run(door(JobLimits()).change(ADA, JOB, request))


@pytest.mark.parametrize("text", ["ada", "ada=", "ada=10", "ada=x", "Ada=3", "=3"])
def test_priority_that_cannot_be_read_is_refused(text: str):
    with pytest.raises(InputError):
        parse_priorities([text])


def test_operator_sets_limits_that_the_centre_will_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "domain"
    init_domain(folder, "home")
    assert run(["limits", str(folder), "--running", "8", "--priority-most", "3", "--priority", "bob=9"]) == 0
    assert run(["limits", str(folder), "--running-per-owner", "2", "--priority", "ada=4"]) == 0
    wanted = JobLimits(running=8, running_per_owner=2, priority_most=3, priorities={BOB: 9, ADA: 4})
    assert DomainFolder(folder).load().jobs == wanted

    capsys.readouterr()
    assert run(["limits", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["priorities"] == {"bob": 9, "ada": 4}


def test_centre_takes_the_limits_of_its_domain_for_running_jobs(tmp_path: Path) -> None:
    folder = tmp_path / "domain"
    init_domain(folder, "home")
    assert run(["limits", str(folder), "--running", "8", "--running-per-owner", "2"]) == 0

    config = config_of(DomainFolder(folder).load(), direct=("here:1",))

    assert (config.running_jobs, config.running_jobs_per_owner, config.direct) == (8, 2, ("here:1",))


def test_limits_that_cannot_be_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "domain"
    before = init_domain(folder, "home")
    assert run(["limits", str(folder), "--priority-most", "10"]) == 2
    assert run(["limits", str(folder), "--running", "0"]) == 2
    assert DomainFolder(folder).load() == before
