"""The benchmarks' peers: what is read out of their records, and that nothing is made up where one is absent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.peers import environments
from benchmarks.peers.apps.contents import are_weights, note, weights
from benchmarks.peers.environments import PeerAbsentError
from benchmarks.peers.measuring import PEERS, measure_peers
from benchmarks.peers.nvflare import set_address, write_job
from benchmarks.peers.records import figures, hops_s, job_close_s, job_start_s, read_record, rounds_s

SECOND = 1_000_000_000


def step(version: int, site: str, began_s: float, ended_s: float, *, right: bool = True) -> str:
    times = {"began_ns": int(began_s * SECOND), "ended_ns": int(ended_s * SECOND)}
    return json.dumps({"event": "step", "site": site, "version": version, "right": right, **times}) + "\n"


def mark(event: str, at_s: float) -> str:
    return json.dumps({"event": event, "at_ns": int(at_s * SECOND)}) + "\n"


def test_hops_of_a_record_run_from_the_end_of_a_step_to_the_start_of_the_next_without_the_first():
    record = read_record(step(0, "a", 1, 2) + step(1, "b", 9, 10) + step(2, "a", 13, 14) + step(3, "b", 14.5, 15))
    assert hops_s(record) == [3.0, 0.5]


def test_hops_of_a_record_written_out_of_order_are_those_of_the_versions():
    record = read_record(step(2, "a", 13, 14) + step(0, "a", 1, 2) + step(1, "b", 9, 10))
    assert hops_s(record) == [3.0]


def test_hops_of_versions_that_went_to_both_sites_are_none():
    record = read_record(step(0, "a", 1, 2) + step(1, "b", 3, 4) + step(2, "a", 6, 7) + step(2, "b", 6, 7))
    assert hops_s(record) == []


@pytest.mark.parametrize("after", [step(1, "a", 3, 4), step(2, "b", 3, 4)], ids=["same site", "a version is missing"])
def test_hops_of_a_record_that_is_no_going_to_and_fro_are_refused(after):
    with pytest.raises(PeerAbsentError, match="came to"):
        hops_s(read_record(step(0, "a", 1, 2) + after))


def test_record_with_wrong_bytes_is_refused():
    with pytest.raises(PeerAbsentError, match="version 1 arrived with other bytes"):
        read_record(step(0, "a", 1, 2) + step(1, "b", 3, 4, right=False))


def test_record_whose_last_line_is_being_written_is_read_up_to_it():
    assert len(read_record(step(0, "a", 1, 2) + step(1, "b", 3, 4)[:-9]).steps) == 1


def test_rounds_are_told_apart_by_their_sites():
    lines = [
        json.dumps({"event": "round", "sites": n, "began_ns": SECOND, "ended_ns": (1 + n) * SECOND}) for n in (1, 2)
    ]
    assert rounds_s(read_record("\n".join(lines) + "\n"), 2) == [2.0]


def test_start_and_close_of_a_job_lie_around_its_steps():
    record = read_record(mark("submitted", 1) + step(0, "a", 3, 4) + step(1, "b", 5, 6) + mark("finished", 10))
    assert (job_start_s(record), job_close_s(record)) == (2.0, 4.0)


def test_figures_of_nothing_are_refused():
    with pytest.raises(PeerAbsentError, match="no overhead of 16b"):
        figures("overhead", "16b", [])


def test_figures_bear_the_names_of_ours():
    assert figures("overhead", "16b", [1.0, 2.0, 4.0])["overhead_s_16b"] == 2.0


# --- what goes to and fro -----------------------------------------------------------------------------------------


def test_weights_of_the_next_version_differ_in_every_byte_and_repeat_no_chunk():
    before, after = (weights(4096, version).view(np.uint8) for version in (3, 4))
    assert (before != after).all()
    chunks = {
        weights(4096, version).tobytes()[start : start + 64] for version in range(8) for start in range(0, 4096, 64)
    }
    assert len(chunks) == 8 * 64


def test_weights_survive_the_mean_of_two_bit_by_bit():
    one = weights(4096, 5)
    assert are_weights(one * 0.5 + one * 0.5, 4096, 5)
    assert not are_weights(one, 4096, 6)


def test_note_appends_whole_lines(tmp_path):
    for number in range(2):
        note(str(tmp_path / "record"), event=f"e{number}", at_ns=number)
    assert read_record((tmp_path / "record").read_text()).marks_ns == {"e0": 0, "e1": 1}


# --- leaving out --------------------------------------------------------------------------------------------------


def test_quick_run_without_environments_leaves_every_peer_out_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "ROOT", tmp_path / "none")
    measured = measure_peers(tmp_path, {"16b": 16}, quick=True, left_s=1e9)
    assert (measured.rows, measured.versions) == ({}, {})
    assert [line.split()[0] for line in measured.said] == [peer.name for peer in PEERS]
    assert not (tmp_path / "none").exists()


def test_quick_run_without_time_leaves_every_peer_out_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    for peer in PEERS:
        (tmp_path / peer.name).mkdir()
        (tmp_path / peer.name / environments.READY_FILE).write_text(peer.requirement)
    measured = measure_peers(tmp_path, {"16b": 16}, quick=True, left_s=1.0)
    assert measured.rows == {}
    assert all("s of --quick are left" in line for line in measured.said)


def test_environment_of_another_version_is_not_ready(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / environments.READY_FILE).write_text("peer==1")
    assert environments.is_ready("peer", "peer==1")
    assert not environments.is_ready("peer", "peer==2")


def test_command_of_an_installation_that_fails_is_told_with_its_last_words():
    with pytest.raises(PeerAbsentError, match="does not install: no such thing"):
        environments.call(["sh", "-c", "echo first >&2; echo no such thing >&2; exit 3"])


# --- NVFlare's files ----------------------------------------------------------------------------------------------


def test_address_of_a_startup_kit_becomes_loopback_and_the_port(tmp_path):
    (tmp_path / "fed_server.json").write_text('{"target": "server:8002", "admin_port": 8002}')
    set_address(tmp_path, 4711)
    assert json.loads((tmp_path / "fed_server.json").read_text()) == {"target": "localhost:4711", "admin_port": 4711}


def test_job_of_nvflare_holds_our_applications_and_where_to_record(tmp_path):
    write_job(tmp_path / "job", Path("/somewhere/record"), 16, 2)
    server = json.loads((tmp_path / "job" / "app" / "config" / "config_fed_server.json").read_text())
    assert server["workflows"][0]["args"]["num_rounds"] == 2
    assert server["components"][0]["args"] == {"record": "/somewhere/record", "size": 16, "hops": 4}
    assert (tmp_path / "job" / "app" / "custom" / "hop" / "contents.py").is_file()
