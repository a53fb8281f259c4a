"""LiteLLM's proxy, one worker, as its documentation starts it: a configuration file, a master key, an OpenAI-compatible
server behind it. No database; logging of requests is off, as is everything that its defaults leave off."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.peers.environments import PeerAbsentError, environment
from benchmarks.peers.processes import LOOPBACK, PeerProcesses, free_ports, running

NAME: Final = "litellm"
REQUIREMENT: Final = "litellm[proxy]==1.108.7"
KEY: Final = "sk-benchmark"
START_S: Final = 120.0
"""How long it may take until it answers: it imports for ten seconds on an idle machine."""

CONFIGURATION: Final = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {upstream}/v1
      api_key: none
general_settings:
  master_key: {key}
"""


class Proxy(NamedTuple):
    """A proxy that answers."""

    url: str
    pid: int


@contextmanager
def proxying(folder: Path, model: str, upstream: str) -> Iterator[Proxy]:
    """The proxy before an OpenAI-compatible server. PeerAbsentError where it does not install, or does not answer."""
    commands = environment(NAME, REQUIREMENT)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "litellm.yaml"
    configuration.write_text(CONFIGURATION.format(model=model, upstream=upstream, key=KEY), encoding="utf-8")
    (port,) = free_ports(1)
    # Names that it would fetch at its start, from the network, are in its package too.
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with running(folder, commands, settings) as processes:
        # Not the command alone: its first line names the interpreter of where the environment was made.
        command = (
            str(commands / "python"),
            str(commands / "litellm"),
            "--config",
            str(configuration),
            "--host",
            LOOPBACK,
            "--port",
            str(port),
        )
        processes.start(NAME, *command, "--num_workers", "1")
        url = f"http://{LOOPBACK}:{port}"
        _until_alive(url, processes)
        yield Proxy(url, processes.pid(NAME))


def _until_alive(url: str, processes: PeerProcesses) -> None:
    give_up_s = time.monotonic() + START_S
    while True:
        processes.check_alive()
        try:
            with urllib.request.urlopen(f"{url}/health/liveliness", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > give_up_s:
                raise PeerAbsentError(f"{NAME} did not answer within {START_S:g} s") from None
            time.sleep(0.2)
