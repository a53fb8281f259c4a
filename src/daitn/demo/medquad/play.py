"""The play: nine institutes join, encode their own texts once, and two departments' models visit them at once.

Nothing here reaches into the network: sites join by `daitn join`, their operators put the base there by `daitn base
add`, owners speak to it through the SDK as anybody would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

import daitn
from daitn.artifacts.signatures import load_or_create_key
from daitn.base.errors import UnavailableError
from daitn.base.units import show_bytes
from daitn.demo.board import Board
from daitn.demo.medquad.data import contract_of, write_all
from daitn.demo.medquad.models import make_adapter, make_encoder
from daitn.demo.medquad.recording import CachedAt, MedquadRecording
from daitn.demo.medquad.sites import (
    DEPARTMENTS,
    DOMAIN,
    INSTITUTES,
    NOTARY,
    NOTARY_OPERATOR,
    PURPOSE,
    Department,
)
from daitn.demo.recording import Compared, JobRecord, Recording
from daitn.demo.together import begin, results
from daitn.descriptors.contract import DataContract
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Budget, Hyperparameters
from daitn.descriptors.terminals import Role
from daitn.learning.base_files import base_digest, base_width
from daitn.node.processes import DataFiles, LocalDomain
from daitn.node.store.listing import list_store
from daitn.oam import wording
from daitn.scenario.spec import NodeSpec
from daitn.sdk.jobs import Job
from daitn.sdk.network import Network
from daitn.sdk.packaging import package_module

DEADLINE_S: Final = 3600.0
"""Beyond what is needed: encoding, which takes long, is done before a job is submitted. The trial gets 180 s."""
CHANCE_FLOOR: Final = 0.5
"""No department keeps nine institutes busy for a goal that is rather missed than met."""
ROUNDS: Final = 4
"""Visits of each institute at most. A measured run gains until the third or fourth round, and then learns by heart."""
ON_A_BASE: Final = Hyperparameters(batch_size=96, batches_per_visit=20, learning_rate=3e-4, optimizer="adamw")
"""Measured on this data: larger batches have harder rivals; three times the rate learns the questions by heart."""
FROM_NOTHING: Final = Hyperparameters(batch_size=48, batches_per_visit=20, learning_rate=1e-3, optimizer="adamw")
MAP_S: Final = 60.0
WIPE_S: Final = 20.0
ENCODE_S: Final = 1800.0
"""Longest one institute may take to encode its texts: 5,400 pairs take two minutes on a free core."""
AT_ONCE: Final = 2


class Setting(NamedTuple):
    """What a performance may vary. `records`: pairs of each institute at most, 0: all; `rounds`: visits of each."""

    base: Path | None = None
    records: int = 0
    deadline_s: float = DEADLINE_S
    rounds: int = ROUNDS
    seed: int = 1


class Play:
    """One performance. Files of the network go below `folder`."""

    def __init__(self, folder: Path, board: Board, setting: Setting) -> None:
        self._folder, self._board, self._base, self._setting = folder, board, setting.base, setting
        self._names: dict[str, str] = {}
        self._owners: dict[str, Network] = {}
        self._packing = threading.Lock()

    def perform(self, data: Path, models: Path) -> MedquadRecording:
        """Everything from the files to the last process. `models`: where the trained packages go."""
        began, unix_s = time.monotonic(), time.time()
        contract, width = self._contract()
        files = write_all(data, self._folder / "data", contract, self._setting.records)
        domain = LocalDomain(self._folder / "network", DOMAIN)
        try:
            domain.start()
            self._open(domain, files)
            cached = self._encode(domain, files) if self._base is not None else ()
            records = results([begin(self._train, one, contract, width, models) for one in DEPARTMENTS])
            activations_left, samples_left = self._wait_for_wiping(domain)
            processes = len(domain.processes.names())
        finally:
            for network in self._owners.values():
                network.close()
            left = domain.stop()
        self._board.say(f"{processes} processes were started, {len(left)} are left")
        recording = Recording(
            version=daitn.__version__,
            began_unix_s=unix_s,
            seconds=time.monotonic() - began,
            jobs=tuple(Compared(job=one, baselines=()) for one in records),
            refusals=(),
            names=self._names,
            processes=processes,
            left=len(left),
        )
        base = contract.bases()[0] if contract.bases() else ""
        return MedquadRecording(
            run=recording, base=base, cached=cached, activations_left=activations_left, samples_left=samples_left
        )

    # --- scenes -----------------------------------------------------------------------------------------------------

    def _contract(self) -> tuple[DataContract, int]:
        if self._base is None:
            return contract_of(), 0
        digest, width = base_digest(self._base), base_width(self._base)
        self._board.say(f"the base is {digest[:16]}, {width} numbers a text; every institute has it already")
        return contract_of(digest, width), width

    def _open(self, domain: LocalDomain, files: Mapping[str, DataFiles]) -> None:
        """Bases, data, and everybody joins; the departments get their tokens."""
        if self._base is not None:
            with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="base") as pool:
                added = list(pool.map(lambda one: domain.add_base(one.name, self._base or Path()), INSTITUTES))
            digests = {base["digest"] for said in added for base in said["bases"]}
            self._board.say(f"{len(added)} sites have the base, {len(digests)} digest")
        specs = [NodeSpec(name=one.name, operator=one.name, roles=(Role.DATA, Role.COMPUTE)) for one in INSTITUTES]
        specs.append(NodeSpec(name=NOTARY, operator=NOTARY_OPERATOR, roles=(Role.VERIFICATION,)))
        ready = domain.join_all(specs, {name: [one] for name, one in files.items()})
        self._names = {str(said["node"]): name for name, said in ready.items()}
        self._board.say(f"{len(INSTITUTES)} institutes joined with their own text, and {NOTARY} to measure")
        owners = [one.owner for one in DEPARTMENTS]
        tokens = results([begin(domain.owner_token, owner) for owner in owners])
        self._owners = {owner: daitn.connect(token) for owner, token in zip(owners, tokens, strict=True)}
        give_up = time.monotonic() + MAP_S
        network = self._owners[owners[0]]
        while (found := sum(len(node.descriptor.data) for node in network.nodes())) < len(files):
            if time.monotonic() > give_up:
                raise UnavailableError(f"only {found} of {len(files)} data sets came onto the map in {MAP_S:g} s")
            time.sleep(0.1)

    def _encode(self, domain: LocalDomain, files: Mapping[str, DataFiles]) -> tuple[CachedAt, ...]:
        """Every institute encodes its own texts, once for all jobs that name this base; longest first."""

        def encode(name: str) -> list[CachedAt]:
            said = domain.run(
                *("data", "embed", files[name].name, "--contract", str(files[name].contract)),
                *("--folder", str(domain.node_folder(name))),
                timeout_s=ENCODE_S,
            )
            found = [msgspec.convert(one | {"site": name}, CachedAt) for one in said["cached"]]
            size = sum(one.size_bytes for one in found)
            seconds = sum(one.seconds for one in found)
            texts = sum(one.records for one in found)
            self._board.say(f"{name} has encoded {texts} texts in {seconds:.0f} s; {show_bytes(size)} stay there")
            return found

        order = sorted(files, key=lambda name: -files[name].data.stat().st_size)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="encode") as pool:
            return tuple(one for found in pool.map(encode, order) for one in found)

    def _train(self, asks: Department, contract: DataContract, width: int, models: Path) -> JobRecord:
        job = self._submit(asks, contract, width)
        record = self._follow(asks, job)
        if record.status.phase in (Phase.DELIVERED, Phase.EXHAUSTED):
            job.result(models / asks.owner)
            self._board.say(f"{asks.owner} has its model: {models / asks.owner}", "bold green")
        return record

    def _submit(self, asks: Department, contract: DataContract, width: int) -> Job:
        package = self._folder / "packages" / asks.owner
        with self._packing:  # tracing keeps its state in globals of torch
            model = make_adapter(width) if width else make_encoder(self._setting.seed)
            key = load_or_create_key(self._folder / "packages" / f"{asks.owner}.key")
            package_module(model, contract, package, key=key, name=asks.title)
        return self._owners[asks.owner].train(
            package,
            targets=asks.targets,
            deadline=self._setting.deadline_s,
            purpose=PURPOSE,
            budget=Budget(visits=self._setting.rounds * len(INSTITUTES)),
            hyperparameters=ON_A_BASE if width else FROM_NOTHING,
            method="cyclic",
            seed=self._setting.seed,
            name=asks.title,
            chance_floor=CHANCE_FLOOR,
            allow_probe=True,
            accept_counter_offer=True,
        )

    def _follow(self, asks: Department, job: Job) -> JobRecord:
        """Watch a job to its end, telling the board."""
        seen, told = 0, False
        status = job.status()
        for status in job.watch():
            if status.log_length > seen:
                entries = job.log(seen)
                seen += len(entries)
                for entry in entries:
                    self._board.entry(asks.title, entry, self._names.get(entry.node or "", ""))
            if status.verdict is not None and not told:
                told = True
                for one in status.verdict.predictions:
                    self._board.say(
                        f"{asks.title}: {one.name} is {wording.number(one.untrained)} untrained, expected "
                        f"{wording.number(one.expected)} ({wording.number(one.low)} – {wording.number(one.high)})"
                    )
                for verdict in (*status.refusals, status.verdict):
                    offer = verdict.counter_offer
                    for change in offer.changes if offer is not None else ():
                        said = f"offered {change.what} {change.offered} instead of {change.asked}"
                        self._board.say(f"{asks.title}: {said}")
            self._board.seen(asks.title, status)
        return JobRecord(key=asks.owner, title=asks.title, status=status, log=job.log())

    def _wait_for_wiping(self, domain: LocalDomain) -> tuple[int, int]:
        """Until the last job's end has reached everybody; how many files of activations are left at the institutes, and
        how many of the samples that they gave the notary, there or here."""
        give_up = time.monotonic() + WIPE_S
        while True:
            left = (activations_in(domain), samples_in(domain))
            if left == (0, 0) or time.monotonic() > give_up:
                break
            time.sleep(0.1)
        self._board.say(
            f"the jobs have ended: {left[0]} files of activations are left at the institutes, {left[1]} samples of "
            f"held-out records at {NOTARY} and the institutes"
        )
        return left


def activations_in(domain: LocalDomain) -> int:
    """Files of activations at the institutes."""
    return sum(len(list(domain.node_folder(one.name).glob("activations/*/*.f16"))) for one in INSTITUTES)


def samples_in(domain: LocalDomain) -> int:
    """Samples of held-out records, whole or in part, in the stores of the notary and of the institutes."""
    found = 0
    for name in (NOTARY, *(one.name for one in INSTITUTES)):
        listing = list_store(domain.node_folder(name) / "store", 0)
        found += sum(pack.kind in ("records", "sample") for pack in listing.packs) + len(listing.partials)
    return found
