"""Limits of a domain's jobs: what owners may ask for, how operators say it, and that the centre goes by it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.builders import make_package, make_request

from daitn.base.errors import InputError, PolicyError
from daitn.base.ids import JobId, OwnerId
from daitn.cli.main import run
from daitn.descriptors.job import Phase
from daitn.descriptors.job_limits import JobLimits, parse_priorities
from daitn.descriptors.privacy import Privacy
from daitn.descriptors.request import Request
from daitn.node.center_service import CenterService
from daitn.node.domain_folder import DomainFolder, init_domain

ADA, BOB = OwnerId("ada"), OwnerId("bob")
JOB = JobId("job")


def door(limits: JobLimits) -> CenterService:
    """The owners' door with one running job of Ada's."""
    state = SimpleNamespace(owner=ADA, ended=False, phase=Phase.RUNNING, request=make_request(), package=make_package())
    core: Any = SimpleNamespace(jobs={JOB: SimpleNamespace(state=state)})
    runner: Any = SimpleNamespace(check_going=lambda: None)
    nothing: Any = None
    return CenterService(core, runner, nothing, nothing, nothing, nothing, nothing, nothing, nothing, limits)


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


def test_limits_that_cannot_be_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "domain"
    before = init_domain(folder, "home")
    assert run(["limits", str(folder), "--priority-most", "10"]) == 2
    assert run(["limits", str(folder), "--running", "0"]) == 2
    assert DomainFolder(folder).load() == before
