"""A private PostgreSQL server for tests: its own folder, port and password, gone afterwards.

`initdb` refuses root, so as root it runs as `postgres` or `nobody`. Found in the PATH, or where Debian puts it.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY_S = 20.0
STOP_S = 10.0


def find_server() -> Path | None:
    """The folder of PostgreSQL's programs; None where it is not installed."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


def why_not() -> str:
    """Why no server can be started here; empty where one can."""
    if find_server() is None:
        return "PostgreSQL's initdb is not installed"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "the psycopg package is not installed"
    return ""


def _account() -> dict[str, Any]:
    """As whom to run: `subprocess` arguments."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("neither postgres nor nobody is an account of this machine")


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a fresh database, on a free port of the loopback."""
    programs, account = find_server(), _account()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="daitn-postgres-"))
    password = secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    try:
        secret = folder / "password"
        secret.write_text(password)
        for path in (folder, secret):
            os.chown(path, account.get("user", -1), account.get("group", -1))
        data, log = folder / "data", folder / "log"
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "daitn", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8"],
            check=True,
            capture_output=True,
            cwd=folder,
            **account,
        )
        settings = ["listen_addresses=127.0.0.1", f"port={port}", f"unix_socket_directories={folder}"]
        command = [programs / "postgres", "-D", data, *(part for one in settings for part in ("-c", one))]
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, **account)
        try:
            _wait_ready(programs, port, server, log)
            yield f"postgresql+psycopg://daitn:{password}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_ready(programs: Path, port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + READY_S
    asking = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(asking, check=False).returncode != 0:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.02)
