"""The router: the process through which the nodes of a domain reach each other; run as a process of its own.

It keeps no state: killed and started again on the same port, nodes rejoin within a second or two. It opens with the
access control of the whole domain (`access`). 16 receive threads keep one slow receiver from stalling the rest, and a
receiver that does not drain is cut after 200 ms instead of 5 s. The stock `zenohd` takes the same configuration.

Links that it refuses in TLS it counts (`refused_links`) and tells the control centre, as a node does, under a name of
its own that no slot can have.

    python -m daitn.node.fabric.router --config router.json

prints one line `ready <port>` when it serves, and ends with status 0 on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import DaitnError, InputError, UnavailableError
from daitn.base.ids import CENTER, DomainId, NodeId
from daitn.base.metrics import shown
from daitn.node.fabric import keys
from daitn.node.fabric.access import ROUTER_NAME, SLOTS_DEFAULT, AccessPlan, make_access_control
from daitn.node.fabric.refused_links import LEVELS, RefusedLinks
from daitn.wire.oam import TOPIC, Counted, encode_counted

RUNTIME: Final = "(rx: (worker_threads: 16))"
"""Receive threads of the transport; the default of two lets two slow receivers stall every flow."""

WAIT_BEFORE_CLOSE_US: Final = 200_000
"""How long a blocking send waits for a receiver that does not drain before its link is cut."""

REPORT_BATCHES: Final = 16
"""Batches of 64 kB of reports and telemetry that may wait for a link, made when they are needed: at 160,000 reports a
second the default of one is full whenever a process does not get its processor for 5 ms, and the rest is dropped."""

SESSIONS_PER_SLOT: Final = 2
"""A node has one session for control and one for data."""

SESSIONS_SPARE: Final = 64
"""Room for reconnecting nodes whose old session has not run out yet."""

TELL_S: Final = 5.0
"""How often what was counted is told again, since telemetry may be dropped, and how often the log speaks of it."""


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a router needs to run."""

    domain: DomainId
    certificate: Path
    key: Path
    authority: Path
    host: str = "127.0.0.1"
    port: int = 0
    """0 for any free port."""
    slots: int = SLOTS_DEFAULT
    overseers: tuple[NodeId, ...] = (CENTER,)
    lease_s: float = 3.0
    peers: tuple[str, ...] = ()
    """`host:port` of routers to link with; each must be reachable from here."""
    ready_file: Path | None = None
    """Gets the port once the router serves."""

    def check(self) -> None:
        """InputError listing all faults at once."""
        files = (self.certificate, self.key, self.authority)
        faults = [f"{path} is not a file" for path in files if not path.is_file()]
        if not 2.0 <= self.lease_s <= 4.0:
            faults.append(f"lease_s is {self.lease_s}, not within 2 to 4")
        if not 0 <= self.port < 65536:
            faults.append(f"port is {self.port}, not a port")
        if faults:
            raise InputError("router configuration: " + "; ".join(faults), todo="correct the configuration file")


def encode_config(config: RouterConfig) -> bytes:
    """The configuration as the JSON that `--config` reads."""
    return msgspec.json.encode(config, enc_hook=str)


def load_config(file: Path) -> RouterConfig:
    """Read a configuration file; InputError naming the file and the first thing wrong."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=RouterConfig, dec_hook=_decode_path)
    except (OSError, *UNDECODABLE) as fault:
        raise InputError(f"{file}: {fault}", todo="correct the configuration file") from fault


def run_router(config: RouterConfig, on_ready: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; `on_ready` is told the port (default: a line on standard output).

    InputError for a bad configuration, UnavailableError if the port is taken.
    """
    config.check()
    os.environ.setdefault("ZENOH_RUNTIME", RUNTIME)
    import zenoh  # reads ZENOH_RUNTIME when it is first used, so not before it is set

    stop = threading.Event()

    def ask_to_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask_to_stop)
    port = config.port or _free_port(config.host)
    text = msgspec.json.encode(router_settings(config, port)).decode()
    refused = RefusedLinks()
    with refused.listening():
        zenoh.init_log_from_env_or(LEVELS)
        try:
            session = zenoh.open(zenoh.Config.from_json5(text))
        except zenoh.ZError as fault:
            raise UnavailableError(
                f"router cannot listen on {config.host}:{port}: {_first_line(fault)}",
                todo="free the port or name another",
            ) from fault
        with session:
            if config.ready_file is not None:
                config.ready_file.write_text(f"{port}\n", encoding="ascii")
            if on_ready is not None:
                on_ready(port)
            else:
                print(f"ready {port}", flush=True)
            telling = _Telling(refused, keys.telemetry(config.domain, telling_name(config.host, port), TOPIC), session)
            # A signal handler runs only between byte codes of the main thread, so the wait must return now and then.
            while not stop.wait(0.5):
                telling.tell()


class _Telling:
    """What was counted, for the centre as telemetry and for people in the log."""

    def __init__(self, refused: RefusedLinks, key: str, session: Any) -> None:
        self._refused, self._key, self._session = refused, key, session
        self._since_unix_s = time.time()
        self._told = self._said = refused.counters.snapshot()
        self._told_s = self._said_s = time.monotonic()

    def tell(self) -> None:
        """Tell what has grown; without that, what was told before, every `TELL_S`."""
        counts, now_s = self._refused.counters.snapshot(), time.monotonic()
        if counts and (counts != self._told or now_s - self._told_s >= TELL_S):
            self._told, self._told_s = counts, now_s
            self._session.put(self._key, encode_counted(Counted(since_unix_s=self._since_unix_s, counts=counts)))
        if counts != self._said and now_s - self._said_s >= TELL_S:
            self._said, self._said_s = counts, now_s
            print(", ".join(f"{name}: {count}" for name, count in shown(counts).items()), file=sys.stderr, flush=True)


def telling_name(host: str, port: int) -> str:
    """Under which name a router tells what it counts: its own among linked ones, and none that a slot can have."""
    return f"{ROUTER_NAME}-{re.sub('[^a-z0-9]+', '-', host.lower()).strip('-')}-{port}"


def router_settings(config: RouterConfig, port: int) -> dict[str, Any]:
    """The router's configuration in the words of zenoh; also what a stock `zenohd` would be given."""
    plan = AccessPlan(domain=config.domain, slots=config.slots, overseers=config.overseers)
    sessions = SESSIONS_PER_SLOT * (config.slots + 1) + SESSIONS_SPARE
    settings: dict[str, Any] = {
        "mode": "router",
        "listen": {"endpoints": [f"tls/{bracketed(config.host)}:{port}"]},
        "connect": {"endpoints": [f"tls/{peer}" for peer in config.peers]},
        "scouting": {"delay": 0, "multicast": {"enabled": False}, "gossip": {"enabled": False}},
        "access_control": msgspec.to_builtins(make_access_control(plan)),
        "transport": transport_settings(config.authority, config.certificate, config.key, config.lease_s),
    }
    settings["transport"]["unicast"] = {"max_sessions": sessions, "accept_pending": sessions}
    settings["transport"]["link"]["tls"] |= {
        "listen_certificate": str(config.certificate),
        "listen_private_key": str(config.key),
        "close_link_on_expiration": True,
    }
    return settings


def transport_settings(authority: Path, certificate: Path, key: Path, lease_s: float) -> dict[str, Any]:
    """What both sides of a link agree on: mutual TLS, the lease, no shared memory."""
    return {
        "shared_memory": {"enabled": False},
        "link": {
            "protocols": ["tls"],
            "tx": {
                "lease": round(lease_s * 1000),
                "keep_alive": 4,
                "queue": {
                    "size": {"background": REPORT_BATCHES},
                    "congestion_control": {"block": {"wait_before_close": WAIT_BEFORE_CLOSE_US}},
                },
            },
            "tls": {
                "root_ca_certificate": str(authority),
                "enable_mtls": True,
                "connect_certificate": str(certificate),
                "connect_private_key": str(key),
                "verify_name_on_connect": True,
            },
        },
    }


def bracketed(host: str) -> str:
    """An IPv6 address in brackets, anything else as it is."""
    return f"[{host}]" if ":" in host else host


def main(arguments: list[str] | None = None) -> int:
    """Entry of the process: 0 after a stop, 2 with one line on stderr for a fault the operator can mend."""
    parser = argparse.ArgumentParser(prog="daitn router", description="Run the router of a domain.")
    parser.add_argument("--config", type=Path, required=True, help="JSON file with the router's configuration")
    options = parser.parse_args(arguments)
    try:
        run_router(load_config(options.config))
    except DaitnError as fault:
        print(f"{fault.kind}: {fault}", file=sys.stderr)
        return 2
    return 0


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"{str(value)[:80]!r} is not a path")


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _first_line(fault: Exception) -> str:
    return str(fault).split(" at ", 1)[0].splitlines()[0]


if __name__ == "__main__":
    raise SystemExit(main())
