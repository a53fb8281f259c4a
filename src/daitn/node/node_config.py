"""A node's folder and configuration: what `daitn join` leaves behind and every later start reads.

node.json          who it is and which roles it carries
tls/               certificate, key, authority
signing.key        Ed25519, signs visit reports
site.secret        keys data versions; never leaves
data/              the data shelf
store/             artifacts
bases/             frozen encoders that the operator put here
activations/       what they made of the data, as its policy allows
answers/           of a gateway: queries that nobody waits for, and the key that posted answers are signed with
replay/            a few earlier records of each field, as its policy allows
journal.sqlite     visits taken and owed
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from daitn.artifacts.signatures import load_or_create_key
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.units import GIB
from daitn.descriptors.access import Access
from daitn.descriptors.destinations import NETWORKS
from daitn.descriptors.host_policy import HostPolicy
from daitn.descriptors.offers import OFFERS, Offer
from daitn.descriptors.pipelines import PIPELINES, Pipeline, TextSwitch
from daitn.descriptors.serving import EngineKind
from daitn.descriptors.tariff import Tariff
from daitn.descriptors.terminals import Role


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the site gives to models that it serves for others."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=64 * 2**20)] = 4 * GIB
    """For all models together, and most that one engine may take."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Engines of each model: batches that run at a time."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    """Of each engine."""
    engine: EngineKind = EngineKind.TORCH_GRAPH
    """What runs models where it can; those it cannot run are run by torch."""
    policy: HostPolicy = HostPolicy()
    offers: Annotated[tuple[Offer, ...], msgspec.Meta(max_length=OFFERS)] = ()
    """Models that are here already, and answer without being deployed."""


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a node with the role `gateway` answers queries."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    """0: any free one."""
    certificate: str = ""
    """PEM file; with `key`, the door speaks TLS. Without both it listens on loopback only."""
    key: str = ""
    pipelines: Annotated[tuple[Pipeline, ...], msgspec.Meta(max_length=PIPELINES)] = ()
    """Combined models that may be asked here."""
    switches: Annotated[tuple[TextSwitch, ...], msgspec.Meta(max_length=PIPELINES)] = ()
    """Pairs of models of texts that may be asked as one."""
    answers_to: Annotated[tuple[str, ...], msgspec.Meta(max_length=NETWORKS)] = ()
    """Networks of the site that answers may be posted to, beside the world outside: `10.1.0.0/16`."""


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the site decides about its node; who it is, is its membership (`enrolment.Membership`)."""

    name: str
    roles: tuple[Role, ...]
    region: str = ""
    slots: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    """Threads of one visit."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=64 * 2**20)] = 8 * GIB
    """Most memory one visit may take."""
    store_bytes: Annotated[int, msgspec.Meta(ge=1)] = 32 * GIB
    direct_host: str | None = None
    """Where others reach this node for direct transfers; None: through the router only (outbound-only site)."""
    direct_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 0
    access: Access = Access()
    """How the node reaches the network: kind, metered, limit, windows known in advance."""
    tariff: Tariff = Tariff()
    """What a visit here is charged, and what it draws."""
    evaluations_per_job: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 500
    activation_bytes: Annotated[int, msgspec.Meta(ge=0)] = 4 * GIB
    """Most that the activations of frozen bases may take here: 2.8 million texts of 768 numbers."""
    hosting: HostConfig = HostConfig()
    """Of a node with the role `host`."""
    gateway: GatewayConfig = GatewayConfig()


class NodeFolder:
    """Paths and secrets of a node's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "node.json"
        self.tls = folder / "tls"
        self.data = folder / "data"
        self.store = folder / "store"
        self.bases = folder / "bases"
        self.activations = folder / "activations"
        self.answers = folder / "answers"
        self.journal = folder / "journal.sqlite"

    def make(self) -> None:
        """The folder, readable by its owner only."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        for path in (self.tls, self.data):
            path.mkdir(mode=0o700, exist_ok=True)

    def load(self) -> NodeConfig:
        """The configuration; InputError where this is no node's folder or the file does not decode."""
        try:
            return msgspec.json.decode(self.config_file.read_bytes(), type=NodeConfig)
        except FileNotFoundError:
            raise InputError(
                f"{self.folder} is not the folder of a node: it has no node.json", todo="daitn join --token TOKEN"
            ) from None
        except UNDECODABLE as error:
            raise InputError(f"{self.config_file} does not decode: {error}") from None

    def save(self, config: NodeConfig) -> None:
        """Write the configuration, whole or not at all."""
        temporary = self.config_file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(config)))
        os.replace(temporary, self.config_file)

    def signing_key(self) -> Ed25519PrivateKey:
        """The key that signs this node's reports, made at the first call."""
        return load_or_create_key(self.folder / "signing.key")

    def site_secret(self) -> bytes:
        """32 secret bytes of this site, made at the first call; the same for commands that call at the same time."""
        path = self.folder / "site.secret"
        if not path.exists():
            made = self.folder / f"site.secret.{secrets.token_hex(8)}"
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
            with contextlib.suppress(FileExistsError):
                os.link(made, path)  # whole or not at all, and only the first
            made.unlink()
        data = path.read_bytes()
        if len(data) != 32:
            raise InputError(f"{path} has {len(data)} bytes, not 32", todo="restore it from a backup")
        return data

    def forget_membership(self) -> None:
        """The node has left: its certificate and configuration go, its data stays."""
        for path in (self.config_file, *self.tls.glob("*")):
            path.unlink(missing_ok=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Marks the folder as in use by this process; InputError if another one runs on it."""
        pid = self.running_pid()
        if pid is not None:
            raise InputError(
                f"process {pid} runs on {self.folder} already", todo="stop it first, or use another folder"
            )
        path = self.folder / "pid"
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def running_pid(self) -> int | None:
        """The process that runs on this folder, if there is one."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            command = Path(f"/proc/{pid}/cmdline")
            if command.parent.parent.is_dir() and b"daitn" not in command.read_bytes():
                return None  # the number was taken by another program since
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid
