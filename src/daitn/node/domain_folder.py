"""A domain's folder: what `daitn init` makes and router and control centre are started from.

    domain.json        addresses and knobs of the domain
    authority/         certificate and key of its authority
    router/            the router's certificate, key and configuration
    center/            the control centre: certificate, grant key, journal, slots, tokens, store, and its memberships
                       in other domains (neighbours/)

Ports left open at `init` are chosen once and kept, so that join tokens stay good over restarts.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Final

import msgspec

from daitn.artifacts.signatures import load_or_create_key
from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.base.ids import CENTER, DomainId
from daitn.base.names import check_name
from daitn.base.units import GIB
from daitn.describe.damping import DampingConfig
from daitn.descriptors.job_limits import JobLimits
from daitn.node.fabric.router import RouterConfig, encode_config
from daitn.node.pki import Authority, create_authority, load_authority, make_request, write_private, write_public
from daitn.topology.view_updates import ViewUpdates

CENTER_HOURS: Final = 24.0 * 30
"""The centre's certificate is renewed at each of its starts, from the authority beside it."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class DomainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a domain agree on."""

    domain: DomainId
    host: str
    """Address that the router, the enrolment and the owners' endpoint listen on, and are reached under."""
    router_port: Port
    enrol_port: Port
    api_port: Port
    slots: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 256
    patience_s: Annotated[float, msgspec.Meta(ge=0.2, le=3600)] = 4.0
    database: str = ""
    """URL of a PostgreSQL database for the journal; empty: SQLite in the folder."""
    store_bytes: Annotated[int, msgspec.Meta(ge=1)] = 64 * GIB
    report_bytes_per_s: Annotated[float, msgspec.Meta(gt=0, le=1e10)] = 20_000.0
    """What nodes' reports of facts may take, all together and in the mean over an hour."""
    views: ViewUpdates = ViewUpdates()
    """How views of running jobs are kept up to date: `{"by": "adapter"}`, or `{"by": "periodic", "period_s": 5}`."""

    damping: DampingConfig = DampingConfig()
    """When a node that comes and goes is asked after others: by default from seven falls within minutes."""

    jobs: JobLimits = JobLimits()
    """How many jobs run, of how many of one owner, and how urgent: `daitn limits`."""

    askers: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()
    """Ids of nodes whose questions on the map are answered by message: other domains' centres."""

    @property
    def router(self) -> str:
        """`host:port` of the router."""
        return f"{self.host}:{self.router_port}"


class DomainFolder:
    """Paths and files of a domain's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "domain.json"
        self.authority = folder / "authority"
        self.router = folder / "router"
        self.center = folder / "center"
        self.neighbours = self.center / "neighbours"

    def load(self) -> DomainConfig:
        """The domain's configuration; InputError where there is none, or it does not decode."""
        try:
            data = self.config_file.read_bytes()
        except FileNotFoundError:
            raise InputError(
                f"{self.folder} is not the folder of a domain: it has no domain.json", todo=f"daitn init {self.folder}"
            ) from None
        try:
            return msgspec.json.decode(data, type=DomainConfig)
        except UNDECODABLE as error:
            raise InputError(f"{self.config_file} does not decode: {error}") from None

    def save(self, config: DomainConfig) -> None:
        """Put the configuration in place at once; the parts of the domain read it when they start."""
        temporary = self.config_file.with_suffix(".new")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(config)))
        os.replace(temporary, self.config_file)

    def router_config(self) -> Path:
        """The router's configuration file."""
        return self.router / "router.json"

    def load_authority(self) -> Authority:
        """The domain's authority."""
        return load_authority(self.authority)

    def renew_center(self) -> tuple[Path, Path, Path]:
        """Certificate, key and authority of the centre's node, issued anew."""
        authority = self.load_authority()
        request, key = make_request(CENTER)
        certificate_file, key_file, authority_file = (
            self.center / "node.crt",
            self.center / "node.key",
            self.center / "authority.crt",
        )
        write_private(key_file, key)
        write_public(certificate_file, authority.issue_node(request, CENTER, lifetime_hours=CENTER_HOURS))
        write_public(authority_file, authority.certificate_pem)
        return certificate_file, key_file, authority_file


def init_domain(
    folder: Path,
    domain: str,
    *,
    host: str = "127.0.0.1",
    router_port: int = 0,
    enrol_port: int = 0,
    api_port: int = 0,
    slots: int = 256,
    patience_s: float = 4.0,
    database: str = "",
) -> DomainConfig:
    """Make a new domain in an empty or missing folder; InputError if there is one already."""
    check_name("domain", domain)
    here = DomainFolder(folder)
    if here.config_file.exists():
        raise InputError(f"{folder} holds the domain {here.load().domain!r} already", todo="choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    ports = [port or _free_port(host) for port in (router_port, enrol_port, api_port)]
    config = DomainConfig(
        domain=DomainId(domain),
        host=host,
        router_port=ports[0],
        enrol_port=ports[1],
        api_port=ports[2],
        slots=slots,
        patience_s=patience_s,
        database=database,
    )
    authority = create_authority(here.authority, config.domain)
    for path in (here.router, here.center):
        path.mkdir(mode=0o700, exist_ok=True)
    certificate, key = authority.issue_server("router", [host])
    for path in (here.router, here.center):
        write_private(path / "server.key", key)
        write_public(path / "server.crt", certificate)
        write_public(path / "authority.crt", authority.certificate_pem)
    router = RouterConfig(
        domain=config.domain,
        certificate=here.router.resolve() / "server.crt",
        key=here.router.resolve() / "server.key",
        authority=here.router.resolve() / "authority.crt",
        host=host,
        port=config.router_port,
        slots=slots,
        ready_file=here.router.resolve() / "ready",
    )
    write_public(here.router_config(), encode_config(router))
    load_or_create_key(here.center / "grants.key")
    here.save(config)
    return config


def _free_port(host: str) -> int:
    """A port nobody listens on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
