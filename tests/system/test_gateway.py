"""Queries to a running domain by an unmodified client of the Open Inference Protocol, hosts killed meanwhile."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tests.system.small_domain import make_model, wait_until
from tests.system.test_serving import write_package

import daitn
from daitn.base.errors import InputError, UnavailableError
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.terminals import Role
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.sdk.later_queries import ask_later, fetch_later, forget_later
from daitn.sdk.query_ways import fetch_way
from daitn.sdk.secret_queries import ask_later_secretly, ask_secretly, fetch_later_secretly

triton = pytest.importorskip("tritonclient.http")

pytestmark = pytest.mark.timeout(240)


def post(address: str, path: str, key: str, body: Any, **headers: str) -> tuple[int, dict[str, str], Any]:
    request = urllib.request.Request(
        address + path,
        data=body if isinstance(body, bytes) else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", **headers},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read())


def test_unmodified_client_is_answered_while_hosts_are_killed_and_refused_by_type(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package")
    model = make_model().eval()
    with LocalDomain(tmp_path / "domain", "asked", patience_s=2.0) as domain:
        domain.start()
        said = domain.join_all(
            [
                *(
                    NodeSpec(name=name, operator=name, roles=(Role.HOST,), region=name)
                    for name in ("ash", "oak", "yew")
                ),
                NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,)),
                NodeSpec(name="port", operator="port", roles=(Role.GATEWAY,)),
            ]
        )
        address, another = said["gate"]["queries"], said["port"]["queries"]
        with daitn.connect(domain.operator_token()) as operator:
            key = operator.make_owner_token("app", ("ask",))
            other = operator.make_owner_token("ada", ("train",))
            small = operator.make_owner_token("small", ("ask",), terms=KeyTerms(queries_per_minute=2))
        with daitn.connect(other) as network:
            network.models.deploy(package, "sides", "p95 <= 1 s, = 2 replicas")
            network.models.wait("sides", 60)

            client = triton.InferenceServerClient(address.removeprefix("http://"))
            headers = {"Authorization": f"Bearer {key}"}
            assert client.is_server_live()
            wait_until(lambda: post(address, "/v2/repository/index", key, {})[0] == 200, "the key is known", 10)
            wait_until(lambda: client.is_model_ready("sides", headers=headers), "the model is ready", 10)
            described = client.get_model_metadata("sides", headers=headers)
            assert described["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
            assert client.get_model_repository_index(headers=headers)[0]["state"] == "READY"
            output = described["outputs"][0]["name"]

            rows = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
            with torch.inference_mode():
                wanted = model(torch.from_numpy(rows)).numpy()
            for binary in (True, False):
                given = triton.InferInput("x", rows.shape, "FP32")
                given.set_data_from_numpy(rows, binary_data=binary)
                asked = [triton.InferRequestedOutput(output, binary_data=binary)]
                answer = client.infer("sides", [given], outputs=asked, headers=dict(headers), request_id="q")
                np.testing.assert_allclose(answer.as_numpy(output), wanted, rtol=1e-4, atol=1e-5)

            body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 0.5]}]}
            where = "/v2/models/sides/infer"
            status, found, _ = post(address, where, key, body, **{"x-daitn-trace": "1"})
            (step,) = json.loads(found["x-daitn-trace"])["steps"]
            assert (status, step["came"], len(step["hosts"])) == (200, "answered", 2)
            way = domain.run("explain", found["x-daitn-query"], "--at", address, "--key", key)
            assert way["steps"] == [step], "whoever asked is told every host of the choice, afterwards too"
            with pytest.raises(InputError, match="no such query of this key"):
                fetch_way(address, key, "another")

            # what must not be answered, each with its reason
            wait_until(
                lambda: "READY" in str(post(another, "/v2/repository/index", key, {})[2]), "it is ready there", 10
            )
            assert [post(at, where, small, body)[0] for at in (address, another)] == [200, 200]
            for at in (address, another):  # of the one quota for both, once each has told what it spent
                assert post(at, where, small, body)[0] == 429
                wait_until(
                    lambda at=at: "2 queries a minute" in str(post(at, where, small, body)[2]), "it is spent", 10
                )
                assert int(post(at, where, small, body)[1]["Retry-After"]) > 10
            assert post(address, where, other, body)[0] == 401
            status, _, told = post(address, "/v2/models/side/infer", key, body)
            assert (status, "'sides'" in told["error"] or "sides" in told["error"]) == (404, True)
            wrong = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
            status, _, told = post(address, where, key, wrong)
            assert (status, "the model takes [-1, 2]" in told["error"]) == (400, True)
            assert post(address, where, key, b"{not json")[0] == 400
            status, found, told = post(address, where, key, body, **{"x-daitn-deadline-ms": "0.001"})
            assert (status, found["x-daitn-reason"]) == (503, "late")
            assert "deadline" in found["x-daitn-offer"]
            status, found, _ = post(address, where, key, body, **{"x-daitn-min-accuracy": "0.9"})
            assert (status, found["x-daitn-reason"]) == (422, "quality")

            _ask_what_nobody_keeps(domain, address, key, output, model)
            query = ask_later(address, key, "sides", {"x": rows}, again="once")
            assert ask_later(address, key, "sides", {"x": rows}, again="once") == query
            wait_until(lambda: fetch_later(address, key, query) is not None, "it is answered, later", 10)
            came = fetch_later(address, key, query)
            assert came is not None
            np.testing.assert_allclose(came[output], wanted, rtol=1e-4, atol=1e-5)
            handed = ask_later(address, key, "sides", {"x": rows}, answer_to=f"gateway:{said['port']['node']}")
            wait_until(lambda: _fetched(another, key, handed) is not None, "it is handed to the other gateway", 10)
            np.testing.assert_allclose(_fetched(another, key, handed)[output], wanted, rtol=1e-4, atol=1e-5)
            with pytest.raises(InputError, match="does not list it"):
                ask_later(address, key, "sides", {"x": rows}, answer_to=f"{address}/v2/repository/index")
            forget_later(address, key, query)

            staged = _deploy_in_stages(network, package, address, key, output, model)
            _kill_hosts_while_asking(domain, network, lambda: post(address, where, key, body))

            wait_until(staged, "another host has loaded the stage that was lost", 30)
            network.models.undeploy("cut")
            _move_while_asking(network, package, lambda: post(address, where, key, body, **{"x-daitn-trace": "1"}))
            _start_from_none(
                network, package, lambda: post(address, where, key, body, **{"x-daitn-deadline-ms": "25000"})
            )

            with daitn.connect(domain.operator_token()) as operator:
                (mine,) = [one for one in operator.owner_tokens() if one.owner == "app"]
                operator.revoke_owner_token(mine.id)
            wait_until(lambda: post(address, where, key, body)[0] == 401, "the revoked key opens nothing", 10)


def _fetched(address: str, key: str, query: str) -> Any:
    """What came of a query at a gateway that may not have heard of it yet."""
    try:
        return fetch_later(address, key, query)
    except InputError:
        return None


def _ask_what_nobody_keeps(domain: LocalDomain, address: str, key: str, output: str, model: Any) -> None:
    """A query in the open and a secret one leave nothing of themselves in any file, log, trace or metric."""
    rows = np.array([[0.81372645, -1.52938471], [2.71938264, 0.39182736]], np.float32)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(rows)).numpy()
    found = ask_secretly(address, key, "sides", {"x": rows})
    np.testing.assert_allclose(found[output], wanted, rtol=1e-4, atol=1e-5)
    ticket = ask_later_secretly(address, key, "sides", {"x": rows})
    wait_until(lambda: fetch_later_secretly(address, key, ticket) is not None, "it is answered, later", 10)
    later = fetch_later_secretly(address, key, ticket)
    assert later is not None
    np.testing.assert_allclose(later[output], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match=r"the model takes \[-1, 2\]"):
        ask_secretly(address, key, "sides", {"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(InputError, match="none of the hosts that may read"):
        ask_secretly(address, key, "sides", {"x": rows}, hosts=("n9999",))
    with pytest.raises(UnavailableError, match="no host of clinic"):
        ask_secretly(address, key, "sides", {"x": rows}, goal={"x-daitn-zone": "clinic"})
    body = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": rows.tolist()}]}
    status, headers, told = post(address, "/v2/models/sides/infer", key, body, **{"x-daitn-trace": "1"})
    assert status == 200

    numbers = [*rows.ravel().tolist(), *found[output].ravel().tolist(), *told["outputs"][0]["data"]]
    traces = [f"{abs(number):.6f}".encode() for number in numbers]
    traces += [row.tobytes() for row in (*rows, *found[output])]
    with daitn.connect(domain.operator_token()) as operator:
        counters = msgspec.json.encode(operator.counters())
    way = msgspec.json.encode(fetch_way(address, key, headers["x-daitn-query"]))
    kept = {"counters": counters, "way": way, "headers": repr(headers).encode()}
    kept |= {str(path): path.read_bytes() for path in domain.folder.rglob("*") if path.is_file()}
    assert len(kept) > 10
    for where, data in kept.items():
        assert not [one for one in traces if one in data], f"{where} holds of the query or its answer"


def _deploy_in_stages(
    network: Any, package: Path, address: str, key: str, output: str, model: Any
) -> Callable[[], bool]:
    """A model over two hosts says what it says whole; whether it does so, with each stage at a host that answers."""
    rows = np.random.default_rng(3).normal(size=(4, 2)).astype(np.float32)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(rows)).numpy()
    network.models.deploy(package, "cut", "= 1 replicas", split=2)
    assert network.models.wait("cut", 60).stages == 2
    assert [one.model for one in network.models.list()] == ["cut", "sides"]
    body = {"inputs": [{"name": "x", "shape": [4, 2], "datatype": "FP32", "data": rows.tolist()}]}

    def answers() -> bool:
        shown = network.models.status("cut")
        status, _, told = post(address, "/v2/models/cut/infer", key, body)
        if status != 200 or shown.phase.value != "serving":
            return False
        got = np.array(next(one for one in told["outputs"] if one["name"] == output)["data"]).reshape(wanted.shape)
        assert np.abs(got - wanted).max() <= 1e-5
        return {one.stage for one in shown.replicas} == {1, 2}

    wait_until(answers, "both stages answer", 10)
    assert len({one.name for one in network.models.status("cut").replicas}) == 2
    found = ask_secretly(address, key, "cut", {"x": rows})  # each stage is read by its host, what lies between by us
    assert np.abs(found[output] - wanted).max() <= 1e-5
    return answers


def _kill_hosts_while_asking(domain: LocalDomain, network: Any, ask: Any) -> None:
    """Every query is answered, and answered right, while one of its hosts is killed."""
    results: list[tuple[int, float]] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            began = time.monotonic()
            status, _, told = ask()
            results.append((status, time.monotonic() - began))
            assert status != 200 or len(told["outputs"][0]["data"]) == 2

    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        stages = {one.name for one in network.models.status("cut").replicas}
        placed = sorted(
            (one.name for one in network.models.status("sides").replicas), key=lambda one: one not in stages
        )
        wait_until(lambda: len(results) > 30, "queries are answered", 20)
        domain.kill(placed[0])
        wait_until(
            lambda: (
                {one.name for one in network.models.status("sides").replicas if one.phase == "serving"}
                >= {"ash", "oak", "yew"} - {placed[0]}
            ),
            "the third host serves",
            40,
        )
        asked = len(results)
        wait_until(lambda: len(results) > asked + 30, "queries go on", 20)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert [status for status, _ in results if status != 200] == []
    assert max(seconds for _, seconds in results) < 8


def _move_while_asking(network: Any, package: Path, ask: Any) -> None:
    """A model moves from its hosts to one of another region; every query is answered, and none was lost on the way."""
    placed = {one.name for one in network.models.status("sides").replicas}
    aim = sorted(placed)[0]
    network.models.deploy(package, "sides", f"p95 <= 1 s, = 1 replicas, region {aim}")
    wait_until(lambda: {one.name for one in network.models.status("sides").replicas} == {aim}, "one is left", 20)
    other = sorted(placed - {aim})[0]
    came: list[tuple[int, str, list[str]]] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            status, found, _ = ask()
            steps = json.loads(found["x-daitn-trace"])["steps"]
            came.append((status, steps[-1]["host"] if steps else "", [one["came"] for one in steps]))

    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(came) > 10, "queries are answered", 20)
        network.models.deploy(package, "sides", f"p95 <= 1 s, = 1 replicas, region {other}")
        wait_until(lambda: [one.name for one in network.models.status("sides").replicas] == [other], "it moved", 40)
        asked = len(came)
        wait_until(lambda: len(came) > asked + 30, "queries go on", 20)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert {status for status, _, _ in came} == {200}
    assert {word for _, _, words in came for word in words} <= {"answered", "withdrawn"}, "none was lost or refused"
    assert came[0][1] != came[-1][1]


def _start_from_none(network: Any, package: Path, ask: Any) -> None:
    """Nobody asks, and no replica is kept; the next query starts one, and is answered."""
    network.models.deploy(package, "sides", "p95 <= 1 s, >= 0 replicas, <= 1 replicas, idle 2 s")
    wait_until(lambda: network.models.status("sides").phase.value == "idle", "none is kept", 30)
    assert network.models.status("sides").replicas == ()
    status, found, told = ask()
    assert status == 200, (found, told)
    assert len(network.models.status("sides").replicas) == 1
