"""The play: a domain of real processes, two owners, two jobs at once, three refusals, and the same work done otherwise.

Nothing here reaches into the network: sites join by `daitn join`, owners speak to it through the SDK as anybody would.
What is outside says so (`central`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.errors import DaitnError, UnavailableError
from daitn.demo.board import Board
from daitn.demo.hospitals.central import train_centrally
from daitn.demo.hospitals.contracts import breast_contract, digits_contract
from daitn.demo.hospitals.data import SiteFiles, new_samples_file, write_all
from daitn.demo.hospitals.models import make_model
from daitn.demo.hospitals.serving import serve
from daitn.demo.hospitals.sites import BREAST_OWNER, DIGITS_OWNER, DOMAIN, PURPOSE, SITES, Kind
from daitn.demo.recording import Baseline, Compared, JobRecord, Recording, Refusal, Served, local_batches
from daitn.demo.together import begin, results
from daitn.descriptors.contract import DataContract
from daitn.descriptors.job import FINAL_PHASES, JobStatus, Phase
from daitn.descriptors.plan import Plan
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.node.processes import DataFiles, LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.sdk.jobs import Job
from daitn.sdk.network import Network
from daitn.sdk.packaging import package_module

SEED: Final = 1
DEADLINE_S: Final = 300.0
"""Far beyond what is needed: on a busy machine the start of sandboxes takes most of the time."""

HURRY_S: Final = 2.0
HURRY_BATCHES: Final = 400
"""Visits this long, at all the sites it takes to see every label, need longer than that; a minute is then offered."""
ADMISSION_S: Final = 60.0


class Ask(NamedTuple):
    """One of the two jobs: who wants what."""

    key: Kind
    owner: str
    title: str
    targets: tuple[str, ...]
    contract: DataContract
    raw_records: str


ASKS: Final[tuple[Ask, ...]] = (
    Ask(
        "breast",
        BREAST_OWNER,
        "breast cancer",
        ("accuracy >= 95%", "recall[malignant] >= 93%"),
        breast_contract(),
        "stay",
    ),
    Ask(
        "forms",
        DIGITS_OWNER,
        "handwritten digits",
        ("accuracy >= 93%", "accuracy@low-digits >= 95%"),
        digits_contract(),
        "trust-zone",
    ),
)


class Followed(NamedTuple):
    """A job at its end, and the plan it was admitted with."""

    record: JobRecord
    plan: Plan | None


class Play:
    """One performance. Files of the network go below `folder`; packages and reports are the caller's business."""

    def __init__(self, folder: Path, board: Board, *, quick: bool = False) -> None:
        """`quick`: without the baselines that the network would have to run."""
        self._folder = folder
        self._board = board
        self._quick = quick
        self._names: dict[str, str] = {}
        self._owners: dict[str, Network] = {}

    def perform(self, models: Path) -> Recording:
        """Everything from data to the last process. `models`: where the trained packages go."""
        began, unix_s = time.monotonic(), time.time()
        files = write_all(self._folder / "data")
        self._board.say(f"{len(files)} data sets of {len({one.site for one in files})} sites are written")
        domain = LocalDomain(self._folder / "network", DOMAIN)
        try:
            self._open(domain, files)
            followed = self._train(models)
            refusals, baselines = self._compare(followed, files)
            predicted = self._predict(domain, models)
            served = self._serve(domain, models)
            processes = len(domain.processes.names())
        finally:
            for network in self._owners.values():
                network.close()
            left = domain.stop()
        self._board.say(f"{processes} processes were started, {len(left)} are left")
        return Recording(
            version=daitn.__version__,
            began_unix_s=unix_s,
            seconds=time.monotonic() - began,
            jobs=tuple(
                Compared(job=one.record, baselines=tuple(baselines[one.record.key])) for one in followed.values()
            ),
            refusals=tuple(refusals),
            names=self._names,
            processes=processes,
            left=len(left),
            predicted=predicted,
            served=served,
        )

    # --- scenes -----------------------------------------------------------------------------------------------------

    def _open(self, domain: LocalDomain, files: Sequence[SiteFiles]) -> None:
        """Router, control centre, sites; the owners get their tokens."""
        domain.start()
        self._board.say("router and control centre run; sites map their data and join")
        shelves = {
            site.name: [
                DataFiles(one.dataset, one.data, one.contract, one.policy, one.column_map)
                for one in files
                if one.site == site.name
            ]
            for site in SITES
        }
        specs = [NodeSpec(name=one.name, operator=one.operator, roles=one.roles, region=one.region) for one in SITES]
        ready = domain.join_all(specs, shelves)
        self._names = {str(said["node"]): name for name, said in ready.items()}
        for site in SITES:
            self._board.say(f"{site.name} ({site.what}) joined as {', '.join(site.roles)}")
        owners = [ask.owner for ask in ASKS]
        tokens = results([begin(domain.owner_token, owner) for owner in owners])
        self._owners = {owner: daitn.connect(token) for owner, token in zip(owners, tokens, strict=True)}
        self._wait_for_data(len(files))

    def _wait_for_data(self, expected: int) -> None:
        """Until the map holds every data set: statistics are drawn after a node has joined."""
        network = self._owners[BREAST_OWNER]
        give_up = time.monotonic() + ADMISSION_S
        while (found := sum(len(node.descriptor.data) for node in network.nodes())) < expected:
            if time.monotonic() > give_up:
                raise UnavailableError(f"only {found} of {expected} data sets came onto the map in {ADMISSION_S:g} s")
            time.sleep(0.1)

    def _train(self, models: Path) -> dict[str, Followed]:
        """Both jobs at once, from submission to the fetched package."""
        followed = results([begin(self._train_one, ask, models / ask.key) for ask in ASKS])
        return {ask.key: one for ask, one in zip(ASKS, followed, strict=True)}

    def _train_one(self, ask: Ask, package: Path) -> Followed:
        job = self._submit(ask)
        followed = self._follow(ask.title, ask.key, job)
        if followed.record.status.phase in (Phase.DELIVERED, Phase.EXHAUSTED):
            job.result(package)
            self._board.say(f"{ask.owner} has the model: {package}", "bold green")
        return followed

    def _submit(self, ask: Ask, **changes: Any) -> Job:
        wanted: dict[str, Any] = {
            "targets": ask.targets,
            "deadline": DEADLINE_S,
            "purpose": PURPOSE,
            "raw_records": ask.raw_records,
            "seed": SEED,
            "name": ask.key,
            **changes,
        }
        package = self._package(wanted.pop("model", ask.key), wanted.pop("contract", ask.contract), ask.owner)
        return self._owners[ask.owner].train(package, **wanted)

    def _package(self, model: str, contract: DataContract, owner: str) -> Path:
        """The owner's module as a signed package, made once however often it is submitted."""
        folder = self._folder / "packages" / owner / model
        with _PACKING:
            if not folder.exists():
                key = load_or_create_key(self._folder / "packages" / f"{owner}.key")
                package_module(make_model(model, SEED), contract, folder, key=key, name=contract.name)
        return folder

    def _follow(self, title: str, key: str, job: Job) -> Followed:
        """Watch a job to its end, telling the board."""
        seen, plan = 0, None
        status = job.status()
        for status in job.watch():
            plan = plan or status.plan
            if status.log_length > seen:
                entries = job.log(seen)
                seen += len(entries)
                for entry in entries:
                    self._board.entry(title, entry, self._names.get(entry.node or "", ""))
            self._board.seen(title, status)
        return Followed(JobRecord(key=key, title=title, status=status, log=job.log()), plan)

    def _compare(
        self, followed: Mapping[str, Followed], files: Sequence[SiteFiles]
    ) -> tuple[list[Refusal], dict[str, list[Baseline]]]:
        """Three refusals with their counter-offers, then the baselines."""
        self._board.say("three more requests, which cannot be met as asked")
        refusals = results([begin(self._refuse, title, make) for title, make in self._impossible()])
        inside: list[Baseline] = []
        if not self._quick:
            self._board.say("the same number of local batches in a naive cycle, and in federated averaging")
            ways = (self._cycle, self._average)
            inside = results([begin(way, ask, followed[ask.key]) for ask in ASKS for way in ways])
        each = len(inside) // len(ASKS)
        baselines: dict[str, list[Baseline]] = {
            ask.key: [*inside[place * each : (place + 1) * each], self._central(ask, followed[ask.key], files)]
            for place, ask in enumerate(ASKS)
        }
        return refusals, baselines

    def _impossible(self) -> tuple[tuple[str, Callable[[], Job]], ...]:
        """What cannot be had: in that time, with that data, from that site."""
        breast, forms = ASKS
        hexadecimal = digits_contract(hexadecimal=True)
        return (
            (
                f"{forms.owner} wants {HURRY_BATCHES} batches a visit, and the model back within {HURRY_S:g} s",
                lambda: self._submit(
                    forms,
                    deadline=HURRY_S,
                    hyperparameters=Hyperparameters(batches_per_visit=HURRY_BATCHES),
                    name="hurry",
                ),
            ),
            (
                f"{forms.owner} wants the letters a–f read, too, which no site has",
                lambda: self._submit(
                    forms,
                    model="hexadecimal",
                    contract=hexadecimal,
                    targets=(*forms.targets, "accuracy@letters >= 90%"),
                    name="hexadecimal",
                ),
            ),
            (
                f"{forms.owner} wants breast cancer data of elm, whose policy names only {breast.owner}",
                lambda: self._submit(
                    breast._replace(owner=forms.owner),
                    data=["elm/breast", "birch/breast", "fir/breast", "alder/breast"],
                    name="elm-data",
                ),
            ),
        )

    def _refuse(self, title: str, make: Callable[[], Job]) -> Refusal:
        """Ask, be refused, take the counter-offer, see it admitted, and cancel it: it was only to show."""
        job = make()
        status = job.wait(ADMISSION_S)
        verdict = status.verdict
        offer = verdict.counter_offer if verdict is not None else None
        why = "; ".join(f"{one.code.value}: {one.what}" for one in verdict.failed()) if verdict is not None else ""
        self._board.say(f"{title}: {status.phase.value} ({why or status.reason})", "bold red")
        if status.phase is not Phase.REFUSED or offer is None:
            return Refusal(title=title, status=status, taken=None, admitted_after_s=None)
        changes = ", ".join(f"{one.what} {one.offered} instead of {one.asked}" for one in offer.changes)
        self._board.say(f"  offered instead: {changes}; taken")
        began = time.monotonic()
        taken = job.take_counter_offer()
        answer = _wait_for_verdict(taken)
        admitted = answer.verdict is not None and answer.verdict.outcome == "admitted"
        seconds = time.monotonic() - began
        if admitted:
            self._board.say(f"  admitted after {seconds:.1f} s: {title}", "bold green")
        if answer.phase not in FINAL_PHASES:
            answer = taken.cancel()
        return Refusal(title=title, status=status, taken=answer, admitted_after_s=seconds if admitted else None)

    # --- the same work otherwise ------------------------------------------------------------------------------------

    def _cycle(self, ask: Ask, made: Followed) -> Baseline:
        status = made.record.status
        job = self._submit(
            ask, method="cyclic", name=f"{ask.key}-cycle", budget=Budget(visits=status.visits), **_pinned(made.plan)
        )
        return self._baseline("cycle", "every site in turn, in the order of names", ask, job)

    def _average(self, ask: Ask, made: Followed) -> Baseline:
        """As many rounds as whole cycles, the batches spread so that their number in all is the same."""
        status = made.record.status
        sites = sum(1 for site in SITES for one in site.holdings if one.kind == ask.key)
        rounds = max(1, round(status.visits / sites))
        each = max(1, round(local_batches(status) / (rounds * sites)))
        job = self._submit(
            ask,
            method="fedavg",
            name=f"{ask.key}-fedavg",
            budget=Budget(visits=rounds * sites),
            hyperparameters=Hyperparameters(batches_per_visit=each),
        )
        return self._baseline(
            "fedavg", f"federated averaging, {rounds} round{'s' * (rounds > 1)} of all sites", ask, job
        )

    def _baseline(self, name: str, what: str, ask: Ask, job: Job) -> Baseline:
        followed = self._follow(f"{ask.title}, {name}", f"{ask.key}-{name}", job)
        status = followed.record.status
        seconds = (status.ended_unix_s or time.time()) - status.submitted_unix_s
        return Baseline(
            name=name,
            what=what,
            inside=True,
            visits=status.visits,
            batches=local_batches(status),
            seconds=seconds,
            measurements=status.reached,
            stopped=status.reason,
        )

    def _central(self, ask: Ask, made: Followed, files: Sequence[SiteFiles]) -> Baseline:
        status = made.record.status
        assert made.plan is not None
        training, targets = made.plan.training, status.request.targets
        done = train_centrally(ask.key, files, training, status.visits, status.verifications, targets, SEED)
        self._board.say(f"{ask.title}: trained centrally, outside the network, for comparison")
        return done

    def _predict(self, domain: LocalDomain, models: Path) -> str:
        """`daitn predict` on samples that no site had."""
        new = new_samples_file(self._folder / "data")
        if not (models / "breast" / "manifest.json").exists():
            return ""
        found = domain.run("predict", str(models / "breast"), str(new))["summary"]
        said = f"{found['right']} of {found['with_truth']} new samples, which no site had, are diagnosed right"
        self._board.say(f"daitn predict: {said}")
        return said

    def _serve(self, domain: LocalDomain, models: Path) -> Served | None:
        """The trained model answers over HTTP; only what reached its goal is worth serving."""
        if not (models / "breast" / "manifest.json").exists():
            return None
        network, new = self._owners[BREAST_OWNER], new_samples_file(self._folder / "data")
        return serve(domain, network, self._board, models / "breast", new)


_PACKING = threading.Lock()
"""Tracing a module keeps its state in globals of torch, so owners that share a process take turns."""


def _pinned(plan: Plan | None) -> dict[str, Any]:
    """The hyper-parameters of a plan, as an owner would pin them."""
    if plan is None:
        return {}
    training = plan.training
    return {
        "hyperparameters": Hyperparameters(
            batch_size=training.batch_size,
            batches_per_visit=training.batches,
            learning_rate=training.learning_rate,
            optimizer=training.optimizer,
        )
    }


def _wait_for_verdict(job: Job) -> JobStatus:
    """The status once a job is past its assessment."""
    give_up = time.monotonic() + ADMISSION_S
    while (status := job.status()).phase is Phase.ASSESSING:
        if time.monotonic() > give_up:
            raise UnavailableError(f"job {job.id} was not assessed within {ADMISSION_S:g} s")
        time.sleep(0.05)
    return status


def run_play(folder: Path, models: Path, board: Board, *, quick: bool) -> Recording:
    """Perform once; an error says on the board where it stopped. Processes are gone either way."""
    try:
        return Play(folder, board, quick=quick).perform(models)
    except DaitnError as error:
        board.say(f"the play stops: {error}", "bold red")
        raise
