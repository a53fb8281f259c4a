"""Bad input to real processes: each is told what was wrong and what to do, is counted, and nothing else is lost.

`docs/bad-input.md` lists all cases and where each is tested.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.builders import make_order
from tests.system.commands import Call, all_at_once
from tests.system.small_domain import contract, wait_until, write_site
from tests.unit.test_graph_check import make_pair, make_zeros

import daitn
from daitn.artifacts import graph as graph_format
from daitn.artifacts.codec import complete_manifest, encode_manifest, with_parts
from daitn.artifacts.graph_schema import GraphPair, Node, NodeRef, ParameterRef, Word
from daitn.artifacts.layout import TensorSpec, digest_of, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import write_package
from daitn.artifacts.signatures import load_or_create_key, sign_parts
from daitn.base.errors import InputError, PeerError, PolicyError
from daitn.base.ids import CENTER
from daitn.base.metrics import shown
from daitn.descriptors.job import Phase
from daitn.descriptors.terminals import Role
from daitn.node.enrolment import enrol
from daitn.node.fabric.zenoh_fabric import open_fabric
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.wire.codec import encode

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDomain]:
    """Router, centre and one site that only holds data. Jobs are given at most priority 6."""
    folder = tmp_path_factory.mktemp("bad")
    with LocalDomain(folder / "domain", "bad", patience_s=2.0) as domain:
        domain.run("init", str(domain.home), "--domain", "bad", "--patience", "2")
        domain.run("limits", str(domain.home), "--priority-most", "6")
        domain.start()
        north = NodeSpec(name="north", operator="north", roles=(Role.DATA,))
        domain.join(north, [write_site(folder / "north", 0)])
        yield domain


@pytest.fixture(scope="module")
def operator(domain: LocalDomain) -> Iterator[daitn.Network]:
    with daitn.connect(domain.operator_token()) as network:
        yield network


def counters(operator: daitn.Network, node: str = "") -> dict[str, int]:
    """What one node counted, the centre if none is named."""
    return next((shown(one.counted.counts) for one in operator.counters() if one.name == node), {})


def wait_counted(operator: daitn.Network, series: str, least: int, node: str = "") -> None:
    """Wait until the centre knows of at least so many."""
    wait_until(
        lambda: counters(operator, node).get(series, 0) >= least, f"{least} × {series} of {node or 'the centre'}", 20
    )


def resident_bytes(domain: LocalDomain, name: str) -> int:
    pages = Path(f"/proc/{domain.processes.pid(name)}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_join_token_unknown_used_or_expired_is_refused_by_name(
    domain: LocalDomain, operator: Any, tmp_path: Path
) -> None:
    good = operator.make_join_token("lab", ["compute"])
    asyncio.run(enrol(good, "first", ("compute",), tmp_path / "first"))
    broken = good[:-6] + ("AAAAAA" if good[-6:] != "AAAAAA" else "BBBBBB")
    expired = operator.make_join_token("lab", ["compute"], valid_s=0.001)
    before = counters(operator)

    for number, (token, said) in enumerate([(good, "used"), (broken, "unknown"), (expired, "expired")]):
        with pytest.raises(InputError) as refused:
            domain.run("join", str(tmp_path / str(number)), "--name", f"late-{number}", "--token", token)
        assert "token" in refused.value.what
        assert refused.value.todo
        wait_counted(operator, f"enrolments[{said}]", before.get(f"enrolments[{said}]", 0) + 1)
        assert not (tmp_path / str(number) / "node.json").exists()


@pytest.mark.parametrize(
    ("what", "words"), [("expired", "has expired"), ("revoked", "was revoked"), ("unknown", "unknown")]
)
def test_owner_token_that_is_no_longer_good_says_why(domain: LocalDomain, operator: Any, what: str, words: str) -> None:
    token = operator.make_owner_token("eve", valid_s=0.001 if what == "expired" else 3600)
    if what == "revoked":
        operator.revoke_owner_token(next(one.id for one in operator.owner_tokens() if one.owner == "eve"))
    if what == "unknown":
        token = token[:-6] + ("AAAAAA" if token[-6:] != "AAAAAA" else "BBBBBB")
    with daitn.connect(token) as network, pytest.raises(PolicyError, match=words) as refused:
        network.jobs()
    assert refused.value.todo
    wait_counted(operator, f"tokens_refused[{what}]", 1)


def test_ten_thousand_requests_of_one_token_slow_nobody_and_take_no_memory(domain: LocalDomain, operator: Any) -> None:
    flooder, other = domain.owner_token("mallory"), daitn.connect(domain.owner_token("bob"))
    host, port = other._transport.token.host_port
    other.jobs()
    before, count, seen = resident_bytes(domain, "center"), 10_000, {200: 0, 429: 0}
    slowest = 0.0
    line = f"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {flooder}\r\n\r\n".encode()
    with (
        socket.create_connection((host, port), timeout=60) as raw,
        other._transport._trusted().wrap_socket(raw, server_hostname=host) as link,
    ):
        stream = link.makefile("rb")
        for start in range(0, count, 100):
            link.sendall(line * 100)
            for _ in range(100):
                answer = http.client.HTTPResponse(_Stream(stream))  # type: ignore[arg-type]
                answer.begin()
                answer.read()
                seen[answer.status] += 1
                assert answer.status == 200 or int(answer.headers["retry-after"]) >= 1
            if start % 1000 == 0:
                began = time.monotonic()
                other.jobs()
                slowest = max(slowest, time.monotonic() - began)
    assert seen[429] > count / 2
    assert slowest < 1.0
    assert resident_bytes(domain, "center") - before < 32 << 20
    wait_counted(operator, "requests_refused[429]", seen[429])
    other.close()


class _Stream:
    """A connection's stream, as `HTTPResponse` wants it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> Any:
        return _Unclosed(self._stream)


class _Unclosed:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """The next answer comes on it too."""


# --- members that say what they must not ------------------------------------------------------------------------------


def test_member_that_speaks_out_of_its_role_is_counted_and_everyone_goes_on(
    domain: LocalDomain, operator: Any, tmp_path: Path
) -> None:
    north = next(one.descriptor.node for one in operator.nodes() if one.descriptor.name == "north")
    order = encode(make_order())

    async def speak() -> None:
        member = await enrol(operator.make_join_token("lab", ["compute"]), "eve", ("compute",), tmp_path / "eve")
        async with open_fabric(member.fabric_config(tmp_path / "eve")) as eve:
            await eve.call(CENTER, order, timeout_s=5)
            for node in (CENTER, north):
                with pytest.raises(PeerError, match="does not decode"):
                    await eve.call(node, b"\xa2\xff\xfe", timeout_s=5)
            await eve.call(north, order, timeout_s=5)
            await eve.publish_latest("counters", b"\x91" * 1000)
            await asyncio.to_thread(wait_counted, operator, "messages_undecodable", 2)
        config = member.fabric_config(tmp_path / "eve")
        host, _, port = config.routers[0].rpartition(":")
        knock = ssl.create_default_context(cafile=str(config.authority))
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as raw:
            knock.wrap_socket(raw, server_hostname=host).recv(1)  # without a certificate

    asyncio.run(speak())
    wait_counted(operator, "links_refused[none]", 1, "router")
    wait_counted(operator, "messages_for_another_role", 1)
    wait_counted(operator, "messages_not_from_center", 1, "north")
    wait_counted(operator, "messages_undecodable", 1, "north")
    assert "north" in {one.descriptor.name for one in operator.nodes() if one.reachable}


# --- data -------------------------------------------------------------------------------------------------------------


def test_data_set_refused_at_a_site_is_counted_at_its_node(domain: LocalDomain, operator: Any, tmp_path: Path) -> None:
    before = counters(operator, "north").get("data_sets_refused", 0)
    files = write_site(tmp_path / "more", 7)
    files.data.write_bytes(b"x0,x1,side\n" + b"\xff\xfe,1,left\n")
    with pytest.raises(InputError, match=r"data\.csv"):
        domain.add_data("north", files._replace(name="broken"))
    files.policy.write_text("owners = 7\n")
    with pytest.raises(InputError):
        domain.add_data("north", files._replace(name="broken"))

    wait_counted(operator, "data_sets_refused", before + 2, "north")
    assert {data.dataset for node in operator.nodes() for data in node.descriptor.data} == {"north/sides"}


# --- packages ---------------------------------------------------------------------------------------------------------


def uploaded(call: Any, graph: bytes, contract_json: bytes, more: dict[str, bytes] | None = None) -> Manifest:
    """An unsigned package whose chunks were uploaded."""
    draft = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
    parts = {"graph": graph, "contract": contract_json, **(more or {})}
    for data in parts.values():
        call("PUT", f"/v1/packages/chunks/{digest_of(data)}", data)
    return complete_manifest(draft, parts, {})


def with_weights(call: Any, value: float) -> Manifest:
    """A package with a tensor `w` of sixteen numbers, one of which is this, whose chunks were uploaded."""
    layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=(16,))])
    draft = Manifest(
        kind="graph", name="m", parts=(), tensors=layout.entries, payload_bytes=layout.payload_bytes, chunks=()
    )
    parts = {"graph": graph_format.encode_graph_pair(make_pair()), "contract": msgspec.json.encode(contract())}
    weights = np.array([0.5] * 15 + [value], np.float32).tobytes()
    for data in (*parts.values(), weights):
        call("PUT", f"/v1/packages/chunks/{digest_of(data)}", data)
    return complete_manifest(draft, parts, {"w": weights})


def as_file(pair: GraphPair) -> bytes:
    """A graph as its file, without the check that our own writer makes."""
    return graph_format.HEADER + graph_format._ENCODER.encode(pair)


def test_package_that_is_broken_or_made_to_harm_is_refused_with_its_reason_and_leaves_no_trace(
    domain: LocalDomain, operator: Any, tmp_path: Path
) -> None:
    key = load_or_create_key(tmp_path / "key")
    network = daitn.connect(domain.owner_token("carol"))
    call = network._transport.call_bytes
    good = msgspec.json.encode(contract())
    unlisted = make_pair(Node("aten.from_file.default", (Word("none"),)))
    cycle = make_pair(Node("aten.linear.default", (NodeRef(0), ParameterRef(0))))
    absurd = make_pair(make_zeros(1 << 40, 1 << 40))
    never_sent = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
    never_sent = complete_manifest(never_sent, {"graph": b"never sent", "contract": good}, {})
    attacks = [
        ("a pickle", lambda: uploaded(call, b"\x80\x04cos\nsystem\n.", good), "pickle"),
        ("an archive", lambda: uploaded(call, b"PK\x03\x04" + bytes(80), good), "ZIP archive"),
        ("an unlisted operator", lambda: uploaded(call, as_file(unlisted), good), "not on the list"),
        ("a cycle", lambda: uploaded(call, as_file(cycle), good), "it refers to node 0, which is not an earlier one"),
        ("absurd shapes", lambda: uploaded(call, as_file(absurd), good), "its literal sizes make 1.209e+24 elements"),
        (
            "weights that are no numbers",
            lambda: with_weights(call, float("nan")),
            "tensor 'w' has numbers that are not",
        ),
        ("weights without end", lambda: with_weights(call, float("inf")), "tensor 'w' has numbers that are not finite"),
        ("a contract that is none", lambda: uploaded(call, b"graph", b"{"), "contract"),
        ("a path that climbs", lambda: uploaded(call, b"graph", good, {"../../escaped": b"x"}), "'../../escaped'"),
        ("chunks that never came", lambda: never_sent, "not uploaded"),
    ]

    with pytest.raises(InputError, match="their digest is"):
        call("PUT", f"/v1/packages/chunks/{digest_of(b'as it was')}", b"as it Was")
    for climbing in ("../../escaped", "..%2F..%2Fescaped", "%2Fetc%2Fpasswd", ".."):
        with pytest.raises((InputError, PeerError)):
            call("PUT", f"/v1/packages/chunks/{climbing}", b"as it was")
    assert not list(domain.folder.parent.rglob("escaped"))
    for name, upload, words in attacks:
        manifest = upload()
        with pytest.raises(InputError, match="package refused") as refused:
            call("POST", "/v1/packages", msgspec.msgpack.encode(sign_parts(manifest, key)))
        assert words in refused.value.what, name
        assert refused.value.todo, name
    with pytest.raises(InputError, match="package refused"):
        call("POST", "/v1/packages", encode_manifest(uploaded(call, b"graph", good)))
    for series, least in (
        ("chunk", 1),
        ("graph", 5),
        ("contract", 1),
        ("incomplete", 1),
        ("manifest", 1),
        ("signature", 1),
        ("not-finite", 2),
    ):
        wait_counted(operator, f"packages_refused[{series}]", least)
    assert not [one for one in counters(operator) if one.startswith("requests_refused[5")]
    network.close()


# --- requests ---------------------------------------------------------------------------------------------------------


def test_requests_that_contradict_themselves_or_that_every_policy_forbids_are_refused_by_name(
    domain: LocalDomain, operator: Any, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    parts = {"graph": graph_format.encode_graph_pair(make_pair()), "contract": msgspec.json.encode(contract())}
    draft = Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=())
    write_package(package, sign_parts(with_parts(draft, parts), load_or_create_key(tmp_path / "key")), parts, {})
    files = write_site(tmp_path / "closed", 9)
    files.policy.write_text("")
    domain.add_data("north", files._replace(name="closed"))
    wait_until(lambda: "north/closed" in held(operator), "the map shows the closed data set")

    def asking(*targets: str, data: str = "north/sides") -> Call:
        asked = [part for target in targets for part in ("--target", target)]
        options = ("--package", package, "--deadline", "5 min", "--purpose", "research", "--data", data)
        return ("train", "submit", *options, *asked)

    wrong = {
        "contradicting": (
            asking("accuracy >= 90%", "accuracy >= 50%"),
            "accuracy is asked for twice: 0.9 and 0.5",
        ),
        "no such metric": (asking("calibration <= 5%"), "unknown metric 'calibration', this task has"),
        "no such field": (asking("accuracy@ward >= 90%"), "no field 'ward', the contract has none"),
        "no such label": (asking("recall[up] >= 90%"), "no label 'up', the contract has left, right"),
    }
    before = counters(operator)
    calls = {name: call for name, (call, _) in wrong.items()}
    calls["closed"] = asking("accuracy >= 90%", data="north/closed")
    calls["urgent"] = (*asking("accuracy >= 90%"), "--priority", "7")
    said = all_at_once(calls, domain.owner_token("ada"))

    for name, (_, words) in wrong.items():
        assert said[name].code == 2, name
        assert words in said[name].what, (name, said[name].what)
        assert said[name].todo, name
    assert said["urgent"].code == 3
    assert said["urgent"].what == "priority 7 is more than ada may give a job, 6"
    assert "daitn limits --priority ada=7" in said["urgent"].todo
    assert said["closed"].code == 3
    status = said["closed"].document["status"]
    assert status["phase"] == "refused"
    (consent,) = [one for one in status["verdict"]["conditions"] if one["what"] == "consent of data owners"]
    for rule in ("north/closed", "owners: asked 'ada'", "purposes: asked 'research'"):
        assert rule in consent["available"], (rule, consent)
    wait_counted(operator, "requests_refused[400]", before.get("requests_refused[400]", 0) + len(wrong))
    wait_counted(operator, "requests_refused[403]", before.get("requests_refused[403]", 0) + 1)
    wait_counted(operator, "jobs_refused", before.get("jobs_refused", 0) + 1)
    with daitn.connect(domain.owner_token("ada")) as network:
        assert [job.phase for job in network.jobs()] == [Phase.REFUSED]
    domain.run("data", "remove", "closed", "--folder", str(domain.node_folder("north")))
    wait_until(lambda: held(operator) == {"north/sides"}, "the map forgets the closed data set")


def held(operator: daitn.Network) -> set[str]:
    """The data sets on the map."""
    return {data.dataset for node in operator.nodes() for data in node.descriptor.data}


def test_upload_that_is_broken_off_is_taken_up_where_it_ended(domain: LocalDomain, operator: Any) -> None:
    walker = daitn.connect(domain.owner_token("ada"))
    host, port = walker._transport.token.host_port
    context = walker._transport._trusted()
    data = os.urandom(100_000)
    path = f"/v1/packages/chunks/{digest_of(data)}"
    with (
        socket.create_connection((host, port), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=host) as link,
    ):
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {walker._transport._bearer}\r\n"
        link.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[:50_000])
    assert walker._missing([_Ref(digest_of(data), len(data))]) == {digest_of(data)}
    walker._put((digest_of(data), data))
    assert walker._missing([_Ref(digest_of(data), len(data))]) == set()
    walker.close()


class _Ref:
    def __init__(self, chunk: str, size: int) -> None:
        self.id, self.size = chunk, size
