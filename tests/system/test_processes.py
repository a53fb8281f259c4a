"""Processes: ready, killed, restarted, and none left, with commands that need no network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daitn.base.errors import BugError, InputError, UnavailableError
from daitn.node.processes import LocalDomain
from daitn.node.supervisor import Processes, descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

SERVE = """
import json, sys, time
print("hello")
print(json.dumps({"ready": True, "name": sys.argv[1]}), flush=True)
time.sleep(600)
"""
STUBBORN = """
import json, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"ready": True}), flush=True)
time.sleep(600)
"""
PARENT = """
import json, subprocess, sys, time
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(sleep, start_new_session=True, env=ENVIRONMENT)
print(json.dumps({"ready": True, "child": child.pid}), flush=True)
time.sleep(600)
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    give_up = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def there(pid: int) -> bool:
    return pid in descendants([pid]) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path / "logs")
    yield running
    running.stop()


def test_started_process_says_that_it_is_ready(processes: Processes) -> None:
    processes.start("one", python(SERVE, "a"))
    processes.start("two", python(SERVE, "b"))
    assert processes.wait_ready(["one", "two"]) == {
        "one": {"ready": True, "name": "a"},
        "two": {"ready": True, "name": "b"},
    }
    assert processes.alive("one")
    with pytest.raises(InputError, match="runs already"):
        processes.start("one", python(SERVE, "c"))


def test_process_that_ends_at_once_is_an_error_with_its_last_words(processes: Processes) -> None:
    processes.start("bad", python("import sys; sys.exit('no such domain')"))
    with pytest.raises(UnavailableError, match="no such domain") as caught:
        processes.wait_ready(["bad"])
    assert "status 1" in caught.value.what


def test_process_that_never_gets_ready_is_an_error_in_time(processes: Processes) -> None:
    processes.start("slow", python("import sys, time; print('thinking', file=sys.stderr, flush=True); time.sleep(600)"))
    assert eventually(lambda: "thinking" in processes.tail("slow"))
    with pytest.raises(UnavailableError, match="thinking"):
        processes.wait_ready(["slow"], timeout_s=0.1)


def test_killed_process_is_restarted_and_is_ready_anew(processes: Processes) -> None:
    processes.start("one", python(SERVE, "a"))
    processes.wait_ready(["one"])
    first = processes.pid("one")
    processes.kill("one", signal.SIGKILL)
    assert not processes.alive("one")
    assert processes.restart("one") == {"ready": True, "name": "a"}
    assert processes.pid("one") != first


def test_stop_ends_what_ignores_sigterm_or_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daitn.node.supervisor.TERM_S", 0.3)
    processes = Processes(tmp_path / "logs")
    processes.start("stubborn", python(STUBBORN))
    processes.start("frozen", python(SERVE, "a"))
    processes.wait_ready(["stubborn", "frozen"])
    processes.kill("frozen", signal.SIGSTOP)
    pids = [processes.pid(name) for name in ("stubborn", "frozen")]
    assert processes.stop() == ()
    assert not any(there(pid) for pid in pids)


@pytest.mark.parametrize("environment", ["None", "{}"], ids=["inherits", "clean environment"])
def test_stop_finds_and_ends_a_grandchild_that_stayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    monkeypatch.setattr("daitn.node.supervisor.GONE_S", 0.2)
    processes = Processes(tmp_path / "logs")
    processes.start("parent", python(PARENT.replace("ENVIRONMENT", environment)))
    child = int(processes.wait_ready(["parent"])["parent"]["child"])
    left = processes.stop()
    assert [one.pid for one in left] == [child]
    assert eventually(lambda: not there(child))


def test_leaving_the_context_with_a_grandchild_left_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daitn.node.supervisor.GONE_S", 0.2)
    processes = Processes(tmp_path / "logs")
    processes.start("parent", python(PARENT.replace("ENVIRONMENT", "None")))
    processes.wait_ready(["parent"])
    with pytest.raises(BugError, match="left over"):
        processes.__exit__(None, None, None)


def test_processes_end_with_their_starter(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from daitn.node.supervisor import Processes\n"
        "running = Processes(Path(sys.argv[1]))\n"
        "running.start('one', [sys.executable, '-c', sys.argv[2], 'a'])\n"
        "running.wait_ready(['one'])\n"
        "print(running.pid('one'), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(python(code, str(tmp_path), SERVE), stdout=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert eventually(lambda: not there(int(done.stdout)))


FAKE = """
import json, os, sys, time
from pathlib import Path
words = [word for word in sys.argv[1:] if word != "--json"]
with open(os.environ["TOLD"], "a") as told:
    told.write(json.dumps([words, os.environ.get("DAITN_TOKEN", "")]) + "\\n")
match words[0]:
    case "init":
        home = Path(words[1]); home.mkdir(parents=True)
        (home / "domain.json").write_text("{}"); (home / "operator.token").write_text("op\\n")
        print(json.dumps({"domain": "d"}))
    case "token":
        print(json.dumps({"token": "t-" + words[2]}))
    case "data":
        print(json.dumps({"error": {"what": "no such file", "todo": "look again"}})); sys.exit(2)
    case _:
        print(json.dumps({"ready": True, "name": words[0]}), flush=True); time.sleep(600)
"""


@pytest.fixture
def domain(tmp_path: Path) -> Iterator[LocalDomain]:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    environment = {"TOLD": str(tmp_path / "told")}
    with LocalDomain(tmp_path / "net", "d", command=[sys.executable, str(fake)], environment=environment) as made:
        yield made


def test_local_domain_starts_router_and_center_and_hands_out_tokens(domain: LocalDomain, tmp_path: Path) -> None:
    domain.start()
    assert domain.processes.names() == ("router", "center")
    assert domain.owner_token("mira") == "t-mira"
    told = (tmp_path / "told").read_text().splitlines()
    assert any('"token", "owner", "mira"' in line and line.endswith('"op"]') for line in told)


def test_local_domain_tells_what_a_command_said(domain: LocalDomain) -> None:
    with pytest.raises(InputError, match="no such file") as caught:
        domain.run("data", "add", "x")
    assert caught.value.todo == "look again"


def test_local_domain_leaves_nothing(tmp_path: Path) -> None:
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    environment = {"TOLD": str(tmp_path / "told")}
    with LocalDomain(tmp_path / "net", "d", command=[sys.executable, str(fake)], environment=environment) as made:
        made.start()
        pids = [made.processes.pid(name) for name in made.processes.names()]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
