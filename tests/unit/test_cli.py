"""The command line: what is printed, as JSON and for people, and which exit code says who must act."""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.owner_world import CONTRACT, Door, make_policy, write_package_dir
from typer.testing import CliRunner

from daitn.base.effects import Delivered
from daitn.base.metrics import Count
from daitn.cli.main import app, run
from daitn.descriptors.access import Access, AccessKind
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.links import ROUTER, LinkKind, LinkState
from daitn.descriptors.machine import Hardware
from daitn.descriptors.terminals import Role
from daitn.node.counting import write_counters
from daitn.node.datasets import DataShelf
from daitn.node.node_config import NodeConfig, NodeFolder
from daitn.wire.oam import Counted
from daitn.wire.terminal_tools import LinksReported, MachineReported

GOAL = ["--target", "accuracy >= 95%", "--deadline", "10 min", "--purpose", "diagnosis-support"]


class Shell:
    """Runs commands in this process and reads what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = run(arguments)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def json(self, *arguments: str) -> tuple[int, Any]:
        """Exit code and the one JSON document."""
        code, out, err = self(*arguments, "--json")
        assert err == ""
        assert out.count("\n") == 1
        return code, json.loads(out)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    with Door(tmp_path) as door:
        monkeypatch.setenv("DAITN_TOKEN", door.token("alice", "train", "operate"))
        yield door


@pytest.fixture
def package(tmp_path: Path) -> str:
    return str(write_package_dir(tmp_path / "package"))


# --- training -------------------------------------------------------------------------------------------------------


def test_submit_watch_show_list_log_fetch(shell: Shell, door: Door, package: str, tmp_path: Path) -> None:
    code, done = shell.json("train", "submit", "--package", package, *GOAL, "--watch")
    assert (code, done["status"]["phase"], done["taken"]) == (0, "delivered", None)
    job = done["status"]["job"]
    assert shell.json("train", "show", job)[1]["targets"][0]["met"] is True
    assert [one["job"] for one in shell.json("train", "list")[1]] == [job]
    code, last = shell.json("train", "watch", job)
    assert (code, last["phase"]) == (0, "delivered")
    code, log = shell.json("train", "log", job, "--check")
    assert code == 0
    assert [entry["number"] for entry in log["entries"]] == list(range(len(log["entries"])))
    assert all(check["holds"] for check in log["checks"])
    assert shell.json("train", "log", job, "--start", "3")[1][0]["number"] == 3
    code, fetched = shell.json("train", "fetch", job, str(tmp_path / "result"))
    assert (code, fetched["met"], fetched["artifact"]) == (0, True, last["model"])
    assert (tmp_path / "result" / "manifest.json").exists()
    assert shell.json("train", "fetch", job, str(tmp_path / "result"))[0] == 2


def test_submit_from_a_request_file(shell: Shell, door: Door, package: str, tmp_path: Path) -> None:
    spec = tmp_path / "request.toml"
    spec.write_text(
        'package = "package"\nname = "file"\npurpose = "diagnosis-support"\ndeadline = "1h"\n'
        'targets = ["accuracy >= 0.95"]\n[budget]\ntransfer_bytes = "2 GB"\n[hyperparameters]\nlearning_rate = 0.1\n',
        encoding="utf-8",
    )
    code, done = shell.json("train", "submit", str(spec), "--visits", "50", "--batch-size", "16", "--priority", "3")
    request = done["status"]["request"]
    assert request["priority"] == 3
    assert (code, request["name"], request["deadline_s"]) == (0, "file", 3600.0)
    assert (request["budget"]["transfer_bytes"], request["budget"]["visits"]) == (2_000_000_000, 50)
    assert (request["hyperparameters"]["learning_rate"], request["hyperparameters"]["batch_size"]) == (0.1, 16)


def test_submit_refused_shows_every_failed_condition_and_exits_3(
    shell: Shell, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Door(tmp_path, policy=make_policy(purposes=("billing",))) as door:
        monkeypatch.setenv("DAITN_TOKEN", door.token())
        code, done = shell.json("train", "submit", "--package", package, *GOAL)
        assert (code, done["status"]["phase"]) == (3, "refused")
        failed = [one for one in done["status"]["verdict"]["conditions"] if not one["met"]]
        code, text, _ = shell("train", "submit", "--package", package, *GOAL)
        assert code == 3
        for condition in failed:
            assert condition["code"] in text
        assert text.count("FAILS") == len(failed)
        assert "no nearby request" in text
        job = done["status"]["job"]
        code, document = shell.json("train", "fetch", job, str(tmp_path / "r"))
        assert (code, document["error"]["kind"]) == (3, "policy")
        assert document["error"]["todo"] == f"`daitn train show {job}` has every condition"


def test_submit_with_take_takes_the_counter_offer(shell: Shell, door: Door, package: str) -> None:
    goal = [*GOAL[:2], "--deadline", "0.05 s", *GOAL[4:]]
    code, text, _ = shell("train", "submit", "--package", package, *goal)
    assert code == 3
    assert "Counter-offer" in text
    assert "0.05 s" in text
    job = shell.json("train", "list")[1][0]["job"]
    code, document = shell.json("train", "fetch", job, "unused")
    assert code == 3
    assert f"daitn train show {job}" in document["error"]["todo"]
    assert "--take" in document["error"]["todo"]
    code, done = shell.json("train", "submit", "--package", package, *goal, "--take", "--watch")
    assert (code, done["status"]["phase"], done["taken"]["phase"]) == (0, "refused", "delivered")


def test_watch_without_terminal_prints_a_line_per_entry(shell: Shell, door: Door, package: str) -> None:
    _, done = shell.json("train", "submit", "--package", package, *GOAL)
    job = done["status"]["job"]
    code, text, _ = shell("train", "watch", job)
    assert code == 0
    for word in ("submitted", "ordered", "trained", "measured", "kept", "delivered", "why:", "untrained", "sure"):
        assert word in text
    _, lines, _ = shell("train", "watch", job, "--json", "--lines")
    assert all(json.loads(line)["job"] == job for line in lines.splitlines())


def test_pause_resume_set_cancel(shell: Shell, tmp_path: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Door(tmp_path, hold=True) as door:
        monkeypatch.setenv("DAITN_TOKEN", door.token())
        from daitn.sdk.network import connect

        with connect() as network:
            job = network.train(package, targets=["accuracy >= 0.95"], deadline="1h", purpose="diagnosis-support").id
        assert shell.json("train", "pause", job)[0] == 2
        door.answer_until(lambda: door.service.status("alice", job).phase.value == "running")  # type: ignore[arg-type]
        assert shell.json("train", "pause", job)[1]["phase"] == "paused"
        assert shell.json("train", "resume", job)[1]["phase"] == "running"
        code, changed = shell.json(
            "train", "set", job, "--target", "accuracy >= 0.9", "--visits", "9", "--deadline", "2h", "--priority", "6"
        )
        assert changed["request"]["priority"] == 6
        assert (code, changed["request"]["targets"][0]["value"], changed["request"]["deadline_s"]) == (0, 0.9, 7200.0)
        assert changed["request"]["budget"]["visits"] == 9
        assert shell.json("train", "set", job)[1]["error"]["kind"] == "input"
        code, text, _ = shell("train", "cancel", job)
        assert (code, "cancelled" in text) == (0, True)
        code, document = shell.json("train", "fetch", job, "unused")
        assert (code, f"daitn train log {job}" in document["error"]["todo"]) == (2, True)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "kind"),
    [
        (["train", "show", "j9"], 2, "input"),
        (["train", "submit", "--target", "x"], 2, "input"),
        (["train", "nonsense"], 2, "input"),
        (["train", "show"], 2, "input"),
        (["train", "list", "--limit", "many"], 2, "input"),
        (["predict", "nowhere", "nothing.csv"], 2, "input"),
    ],
    ids=["unknown job", "lacking options", "unknown command", "missing argument", "wrong type", "no package"],
)
def test_errors_of_the_user_are_one_document_and_exit_2(
    shell: Shell, door: Door, arguments: list[str], code: int, kind: str
) -> None:
    got, document = shell.json(*arguments)
    assert (got, document["error"]["kind"]) == (code, kind)
    assert document["error"]["what"]


def test_error_for_people_says_what_to_do_on_stderr(shell: Shell, door: Door) -> None:
    code, out, err = shell("train", "show", "j9")
    assert (code, out) == (2, "")
    assert "j9" in err
    assert "→" in err


def test_no_token_is_2_revoked_is_3_nobody_there_is_4(
    shell: Shell, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = door.token()
    door.tokens.revoke(token)
    assert shell.json("train", "list", "--token", token)[0] == 3
    monkeypatch.delenv("DAITN_TOKEN")
    assert shell.json("train", "list")[0] == 2
    from daitn.sdk import transport

    monkeypatch.setattr(transport.time, "sleep", lambda _: None)
    door.tokens.address = "127.0.0.1:9"
    assert shell.json("map", "--token", door.token())[0] == 4


# --- the rest -------------------------------------------------------------------------------------------------------


def test_map_and_tokens(shell: Shell, door: Door) -> None:
    nodes = shell.json("map")[1]
    assert [node["descriptor"]["name"] for node in nodes] == ["h1", "h2", "v1"]
    assert "h1/lesions" in shell("map")[1]
    assert shell.json("token", "join", "st-mary", "--role", "data", "--valid", "1 day")[1]["token"].startswith(
        "daitn-join1"
    )
    made = shell.json("token", "owner", "bob")[1]["token"]
    assert shell.json("train", "list", "--token", made) == (0, [])
    identity = next(one["id"] for one in shell.json("token", "list")[1] if one["owner"] == "bob")
    assert shell.json("token", "revoke", identity)[0] == 0
    assert shell.json("train", "list", "--token", made)[0] == 3
    assert shell.json("token", "join", "x", "--role", "datum")[0] == 2


def test_keys_have_terms_that_operators_give_show_and_change(shell: Shell, door: Door) -> None:
    code, made = shell.json("key", "create", "app", "--model", "sides", "--weight", "2", "--queries-per-minute", "60")
    assert code == 0, made
    (key,) = [one for one in shell.json("key", "list")[1] if one["owner"] == "app"]
    assert key["terms"] == {"models": ["sides"], "weight": 2.0, "queries_per_minute": 60}
    assert shell.json("key", "set", key["id"], "--priority", "low", "--tokens-per-day", "1000")[0] == 0
    (key,) = [one for one in shell.json("key", "list")[1] if one["owner"] == "app"]
    assert key["terms"] == {"priority": "low", "tokens_per_day": 1000, "weight": 1.0}
    assert "1000" in shell("key", "list")[1]
    assert shell.json("key", "set", key["id"], "--priority", "urgent")[0] == 2
    assert shell.json("key", "create", "other", "--weight", "0")[0] == 2
    assert shell.json("key", "set", "0123456789ab")[0] == 2
    assert shell.json("key", "revoke", key["id"])[0] == 0


def test_links_and_tools_are_shown_as_nodes_told_them(shell: Shell, door: Door) -> None:
    center, now_ns = door.service.center, time.time_ns()
    node = center.knowledge.nodes()[0].descriptor.node
    other = center.knowledge.nodes()[1].descriptor.node
    direct = LinkState(
        number=2, peer=other, kind=LinkKind.CHUNKS, direct=True, address="a:1", received_bytes=5_000_000,
        round_trip_s=0.012,
    )  # fmt: skip
    links = (LinkState(number=1, peer=ROUTER, kind=LinkKind.CONTROL), direct)
    cellular = Access(kind=AccessKind.CELLULAR, metered=True)
    said = [
        LinksReported(sequence=1, access=cellular, links=links),
        MachineReported(sequence=1, machine=Hardware(cores=4, processor="Test CPU", slots=2)),
    ]
    door.on_loop(lambda: [center.handle(Delivered(sender=node, message=one), now_ns) for one in said])
    row = center.knowledge.node(node).row
    load = {"load_frac": 0.25, "free_slots": 1.0}
    table = center.knowledge.facts[Kind.TERMINAL]
    door.on_loop(lambda: table.note(row, "load", load, source=0, generated_ns=now_ns, received_ns=now_ns))

    shown = [one for one in shell.json("links", "--node", "h1")[1] if one["node"] == node]
    assert [(one["state"]["kind"], one["state"]["direct"]) for one in shown] == [("control", False), ("chunks", True)]
    text = shell("links")[1]
    assert "12.00 ms" in text
    assert "5.0 MB" in text
    assert "direct, made here" in text
    (tools,) = [one for one in shell.json("tools", "show")[1]["nodes"] if one["node"] == node]
    assert tools["machine"]["processor"] == "Test CPU"
    assert (tools["load_frac"], tools["slots_free"]) == (0.25, 1)
    assert 0 <= tools["load_age_s"] < 60
    text = shell("tools", "show")[1]
    assert "4 × Test CPU" in text
    assert "1 of 2" in text
    assert shell.json("links", "--token", door.token("bob"))[0] == 3


def test_counters_of_the_domain_say_what_a_rise_means(shell: Shell, door: Door) -> None:
    door.on_loop(lambda: door.service.center.counters.count("visits_lost", "peer", by=7))
    (one,) = shell.json("counters")[1]
    assert one["node"] == "c0"
    assert {"name": "visits_lost", "value": "peer", "count": 7} in one["counted"]["counts"]
    text = shell("counters")[1]
    assert "visits_lost peer" in text
    assert "jobs go on elsewhere" in text
    assert shell.json("counters", "--token", door.token("bob"))[0] == 3


def test_counters_of_a_node_are_shown_at_its_site(shell: Shell, tmp_path: Path) -> None:
    assert shell.json("counters", "--folder", str(tmp_path))[0] == 2
    NodeFolder(tmp_path).save(NodeConfig(name="h1", roles=(Role.DATA,)))
    write_counters(tmp_path, Counted(since_unix_s=1.0, counts=()))
    assert "nothing was counted" in shell("counters", "--folder", str(tmp_path))[1]
    write_counters(tmp_path, Counted(since_unix_s=1.0, counts=(Count(name="data_sets_changed", count=2),)))
    assert shell.json("counters", "--folder", str(tmp_path))[1][0]["counted"]["counts"][0]["count"] == 2


def test_data_list_says_that_the_files_changed_and_what_to_do(shell: Shell, tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "contract.json").write_bytes(msgspec.json.encode(CONTRACT))
    (tmp_path / "policy.toml").write_text('owners = ["*"]\npurposes = ["diagnosis-support"]\n', encoding="utf-8")
    (tmp_path / "data.csv").write_text("size,depth,diagnosis\n1,2,benign\n20,3,malignant\n", encoding="utf-8")
    folder = ["--folder", str(tmp_path / "node")]
    files = ["--contract", str(tmp_path / "contract.json"), "--policy", str(tmp_path / "policy.toml")]
    assert shell.json("data", "add", "lesions", str(tmp_path / "data.csv"), *files, *folder)[0] == 0
    assert shell.json("data", "list", *folder)[1][0]["source"] == "as added"
    with (tmp_path / "data.csv").open("a") as file:
        file.write("3,4,benign\n")
    said = shell.json("data", "list", *folder)[1][0]["source"]
    assert "the source of data set 'lesions' changed" in said
    assert "add 'lesions' again" in said
    assert "add 'lesions' again" in shell("data", "list", *folder)[1]


def test_data_add_list_preview_remove(shell: Shell, tmp_path: Path) -> None:
    import msgspec

    (tmp_path / "contract.json").write_bytes(msgspec.json.encode(CONTRACT))
    (tmp_path / "policy.toml").write_text('owners = ["*"]\npurposes = ["diagnosis-support"]\n', encoding="utf-8")
    rows = [f"{size},{size / 2},{'malignant' if size > 12 else 'benign'}" for size in np.linspace(1, 25, 200)]
    (tmp_path / "data.csv").write_text("size,depth,diagnosis\n" + "\n".join(rows) + "\n", encoding="utf-8")
    folder = ["--folder", str(tmp_path / "node")]
    files = ["--contract", str(tmp_path / "contract.json"), "--policy", str(tmp_path / "policy.toml")]
    code, report = shell.json("data", "add", "lesions", str(tmp_path / "data.csv"), *files, *folder)
    assert (code, report["records"]) == (0, 200)
    code, listed = shell.json("data", "list", *folder)
    assert (code, listed[0]["name"], listed[0]["records"]) == (0, "lesions", 200)
    code, shown = shell.json("data", "describe", "lesions", *folder)
    assert (code, shown["leaves"]["contract_name"]) == (0, "lesions")
    assert "What leaves this site" in shell("data", "describe", "lesions", *folder)[1]
    here = NodeFolder(tmp_path / "node")
    published = DataShelf(here.data, here.site_secret(), activations=here.activations).descriptor(
        "lesions", "this-node"
    )
    assert shown["leaves"] == msgspec.json.decode(msgspec.json.encode(published))
    code, croissant = shell.json("data", "croissant", "lesions", "--out", str(tmp_path / "c.json"), *folder)
    assert (code, croissant["document"]["conformsTo"]) == (0, "http://mlcommons.org/croissant/1.1")
    code, made = shell.json("data", "from-croissant", str(tmp_path / "c.json"), "--out", str(tmp_path / "again"))
    assert (code, len(made["written"])) == (0, 3)
    again = ["--contract", made["written"][0], "--map", made["written"][1], "--policy", made["written"][2]]
    code, report = shell.json("data", "add", "copy", str(tmp_path / "data.csv"), *again, *folder)
    assert (code, report["records"]) == (0, 200)
    assert shell.json("data", "remove", "copy", *folder)[0] == 0
    assert shell.json("data", "remove", "lesions", *folder) == (0, {"removed": "lesions"})
    assert shell.json("data", "remove", "lesions", *folder)[0] == 2
    assert shell.json("data", "list", *folder) == (0, [])


def test_predict_file(shell: Shell, tmp_path: Path) -> None:
    import torch
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from daitn.sdk.packaging import package_module

    torch.manual_seed(0)
    key = Ed25519PrivateKey.generate()
    package_module(torch.nn.Linear(2, 2), CONTRACT, tmp_path / "p", key=key, name="lesions")
    (tmp_path / "new.csv").write_text("size,depth,diagnosis\n12,4,benign\n30,9,malignant\n", encoding="utf-8")
    out = tmp_path / "out.csv"
    code, document = shell.json("predict", str(tmp_path / "p"), str(tmp_path / "new.csv"), "--out", str(out))
    assert (code, document["summary"]["rows"], document["summary"]["with_truth"]) == (0, 2, 2)
    assert {row["label"] for row in document["rows"]} <= {"benign", "malignant"}
    assert out.read_text(encoding="utf-8").splitlines()[0].startswith("row,label,probability")
    code, text, _ = shell("predict", str(tmp_path / "p"), str(tmp_path / "new.csv"))
    assert (code, "agree with the label" in text) == (0, True)
    assert shell.json("predict", str(tmp_path / "p"), str(tmp_path / "new.csv"), "--out", "x.doc")[0] == 2


def test_every_command_has_json_and_a_sentence_of_help() -> None:
    runner = CliRunner()
    groups = {
        "": app,
        "train": None,
        "data": None,
        "base": None,
        "token": None,
        "key": None,
        "tools": None,
        "demo": None,
    }
    for group in groups:
        listed = runner.invoke(app, [*filter(None, [group]), "--help"]).output
        names = [line.split()[0] for line in listed.partition("Commands:")[2].splitlines() if line.strip()]
        for name in names:
            if name in groups:
                continue
            said = runner.invoke(app, [*filter(None, [group]), name, "--help"])
            assert said.exit_code == 0, name
            assert "--json" in said.output, name


def test_version_and_help_are_quick() -> None:
    quickest = 9.0  # seconds of a processor: what else runs on the machine does not count
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "daitn.cli.main", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        quickest = min(quickest, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert b"train" in done.stdout
    assert quickest < 1.0


def test_import_of_the_command_line_leaves_heavy_packages_alone() -> None:
    script = (
        "import sys, daitn.cli.main; print(sorted({'torch', 'numpy', 'fastapi', 'zenoh', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_import_of_a_connection_leaves_heavy_packages_alone() -> None:
    script = (
        "import sys, daitn; daitn.connect; print(sorted({'torch', 'numpy', 'fastapi', 'zenoh'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_live_view_shows_where_the_model_is_and_why(door: Door, package: str) -> None:
    from rich.console import Console

    from daitn.cli.live import follow
    from daitn.sdk.network import connect

    screen = io.StringIO()
    with connect() as network:
        job = network.train(package, targets=["accuracy >= 0.95"], deadline="1h", purpose="diagnosis-support")
        last = follow(job, Console(file=screen, force_terminal=True, width=200, height=60))
    assert last.phase.value == "delivered"
    for word in ("visits", "target", "wanted", "untrained", "interval"):
        assert word in screen.getvalue()
