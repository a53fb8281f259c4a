"""The owner's HTTP interface, through a real server and real TLS: who may, how much, and what comes back."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.owner_world import Door, make_package, make_request, put_package

from daitn.artifacts.codec import artifact_id
from daitn.artifacts.layout import digest_of
from daitn.base import limits
from daitn.base.errors import InputError
from daitn.descriptors.card import ModelCard
from daitn.descriptors.job import JobStatus, LogEntry, Phase
from daitn.descriptors.request import Request
from daitn.node.http import bodies
from daitn.node.http.owner_token import parse_owner_token
from daitn.node.http.rates import CALLERS, REQUESTS_BURST, REQUESTS_PER_S, RateBook


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def error(self) -> bodies.ErrorBody:
        return msgspec.json.decode(self.data, type=bodies.Problem).error


class Client:
    """One keep-alive connection with verified TLS."""

    def __init__(self, door: Door, token: str | None) -> None:
        context = ssl.create_default_context(cadata=door.authority.certificate_pem.decode())
        self._connection = http.client.HTTPSConnection("127.0.0.1", door.port, context=context, timeout=20)
        self._token = token

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token}"
        self._connection.request(method, path, body, sent)
        answer = self._connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, b"" if body is None else msgspec.json.encode(body), **headers)

    def submit(self, request: Request, key: str = "k1") -> Answer:
        return self.post("/v1/jobs", request, Idempotency_Key=key)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door(tmp_path) as door:
        yield door


@pytest.fixture
def held_door(tmp_path: Path) -> Iterator[Door]:
    """Sites answer only when a test says so."""
    with Door(tmp_path, hold=True) as door:
        yield door


@pytest.fixture
def alice(door: Door) -> Iterator[Client]:
    client = Client(door, door.token("alice"))
    yield client
    client.close()


def status_of(answer: Answer) -> JobStatus:
    assert answer.status in (200, 201), answer
    return msgspec.json.decode(answer.data, type=JobStatus)


def read_events(client: Client, path: str, most: int = 1000) -> list[tuple[str, bytes]]:
    """The events of a stream until it ends, or `most` of them."""
    client._connection.request("GET", path, headers={"Authorization": f"Bearer {client._token}"})
    answer = client._connection.getresponse()
    assert (answer.status, answer.getheader("content-type", "").split(";")[0]) == (200, "text/event-stream")
    events: list[tuple[str, bytes]] = []
    name = ""
    while len(events) < most and (line := answer.readline()):
        if line.startswith(b"event: "):
            name = line[7:].strip().decode()
        elif line.startswith(b"data: "):
            events.append((name, line[6:].strip()))
    return events


# --- starting and stopping ------------------------------------------------------------------------------------------


def test_server_is_ready_within_a_second(door: Door) -> None:
    assert door.seconds_to_ready < 1.0


def test_server_stops_while_a_job_is_watched(tmp_path: Path) -> None:
    with Door(tmp_path, hold=True) as door:
        client = Client(door, door.token())
        package = door.on_loop(lambda: put_package(door.service))
        job = status_of(client.submit(make_request(package))).job
        events: list[tuple[str, bytes]] = []
        reader = threading.Thread(target=lambda: events.extend(read_events(client, f"/v1/jobs/{job}/events")))
        reader.start()
    reader.join(10)
    assert events[-1] == ("end", b'{"ended":false}')


def test_client_that_does_not_trust_the_authority_is_not_served(door: Door) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", door.port, timeout=5)
    with pytest.raises(ssl.SSLCertVerificationError):
        connection.request("GET", "/v1/authority")


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_token_carries_address_domain_and_fingerprint(door: Door) -> None:
    token = parse_owner_token(door.token())
    assert (token.address, token.domain) == (f"127.0.0.1:{door.port}", "clinic")
    assert token.fingerprint.hex() == door.authority.fingerprint
    assert token.secret.hex() not in repr(token)


@pytest.mark.parametrize("token", [None, "nonsense", "daitn-owner1.AAAA"], ids=["none", "nonsense", "damaged"])
def test_call_without_a_valid_token_is_401(door: Door, token: str | None) -> None:
    answer = Client(door, token).get("/v1/jobs")
    assert (answer.status, answer.error.kind) == (401, "policy")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_call_with_token_of_another_secret_is_401(door: Door) -> None:
    forged = str(msgspec.structs.replace(parse_owner_token(door.token()), secret=bytes(32)))
    assert Client(door, forged).get("/v1/jobs").status == 401


def test_call_with_revoked_token_is_401_at_once(door: Door) -> None:
    token = door.token()
    client = Client(door, token)
    assert client.get("/v1/jobs").status == 200
    door.tokens.revoke(token)
    assert client.get("/v1/jobs").status == 401


def test_call_with_expired_token_is_401(door: Door) -> None:
    assert Client(door, door.tokens.create("alice", ["train"], valid_s=1e-6)).get("/v1/jobs").status == 401


def test_call_with_wrong_scope_is_403_and_says_which(door: Door) -> None:
    answer = Client(door, door.token("alice", "train")).post("/v1/tokens/join", {"operator": "st-mary"})
    assert (answer.status, answer.error.kind) == (403, "policy")
    assert "operate" in answer.error.todo
    assert Client(door, door.token("ops", "operate")).get("/v1/jobs").status == 403


def test_token_book_keeps_no_secret(door: Door, tmp_path: Path) -> None:
    token = parse_owner_token(door.token())
    door.tokens.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("tokens.sqlite*"))
    assert token.secret not in stored
    assert token.secret.hex().encode() not in stored
    assert (tmp_path / "tokens.sqlite").stat().st_mode & 0o077 == 0


def test_authority_is_told_to_strangers(door: Door) -> None:
    answer = Client(door, None).get("/v1/authority")
    assert (answer.status, answer.data) == (200, door.authority.certificate_pem)


# --- bounds ---------------------------------------------------------------------------------------------------------


def test_ten_thousand_requests_of_one_token_are_429_while_others_are_served(door: Door) -> None:
    flooder, other = door.token("mallory"), Client(door, door.token("alice"))
    context = ssl.create_default_context(cadata=door.authority.certificate_pem.decode())
    raw = socket.create_connection(("127.0.0.1", door.port), timeout=60)
    line = f"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {flooder}\r\n\r\n".encode()
    count, seen, served = 10_000, {200: 0, 429: 0}, 0
    began = time.monotonic()
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
        stream = link.makefile("rb")
        for start in range(0, count, 100):
            link.sendall(line * 100)
            for _ in range(100):
                status, headers = read_answer(stream)
                seen[status] += 1
                assert status == 200 or int(headers["retry-after"]) >= 1
            if start % 1000 == 0:
                assert other.get("/v1/jobs").status == 200
                served += 1
    assert seen[200] + seen[429] == count
    assert seen[200] >= REQUESTS_BURST
    assert seen[200] <= REQUESTS_BURST + REQUESTS_PER_S * (time.monotonic() - began) + 1
    assert served == 10
    assert door.app.counters.of("requests_refused", "429") == seen[429]


def read_answer(stream: Any) -> tuple[int, dict[str, str]]:
    """Status and headers of one answer; its body is read away."""
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    stream.read(int(headers["content-length"]))
    return status, headers


def test_rate_book_refills_with_time_and_forgets_the_oldest() -> None:
    book = RateBook(per_s=10, burst=2)
    assert [book.take("a", 0.0), book.take("a", 0.0)] == [0.0, 0.0]
    assert book.take("a", 0.0) == pytest.approx(0.1)
    assert book.take("a", 0.2) == 0.0
    for number in range(CALLERS):
        book.take(f"other {number}", 0.2)
    assert book.take("a", 0.2) == 0.0


def test_strangers_are_bounded_per_address_and_owners_behind_it_are_not(door: Door, alice: Client) -> None:
    stranger = Client(door, "nonsense")
    answers = [stranger.get("/v1/jobs").status for _ in range(300)]
    assert set(answers) == {401, 429}
    assert alice.get("/v1/jobs").status == 200


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [
        ("PUT", f"/v1/packages/chunks/{'a' * 64}", limits.CHUNK_BYTES),
        ("POST", "/v1/packages", limits.MANIFEST_BYTES),
        ("POST", "/v1/jobs", limits.MESSAGE_BYTES),
    ],
    ids=["chunk", "manifest", "json"],
)
def test_body_above_its_limit_is_413(alice: Client, method: str, path: str, limit: int) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(limit // 65_536 + 1):
            yield bytes(65_536)

    alice._connection.request(
        method,
        path,
        headers={"Authorization": f"Bearer {alice._token}", "Idempotency-Key": "k", "Content-Length": str(limit + 1)},
    )
    answer = alice._connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["kind"] == "too-large"


def test_body_without_length_above_its_limit_is_413(door: Door) -> None:
    context = ssl.create_default_context(cadata=door.authority.certificate_pem.decode())
    raw = socket.create_connection(("127.0.0.1", door.port), timeout=20)
    with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
        head = f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {door.token()}\r\nIdempotency-Key: k\r\n"
        link.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + bytes(65_536) + b"\r\n"
        for _ in range(limits.MESSAGE_BYTES // 65_536 + 1):
            link.sendall(piece)
        assert b" 413 " in link.makefile("rb").readline()


# --- packages -------------------------------------------------------------------------------------------------------


def test_package_uploads_only_what_is_missing(alice: Client) -> None:
    manifest, chunks = make_package()
    asked = {"chunks": [(chunk, len(data)) for chunk, data in chunks.items()]}
    first = msgspec.json.decode(alice.post("/v1/packages/chunks/missing", asked).data, type=bodies.MissingChunks)
    assert set(first.missing) == set(chunks)
    for chunk in first.missing:
        assert alice.call("PUT", f"/v1/packages/chunks/{chunk}", chunks[chunk]).status == 204
    second = msgspec.json.decode(alice.post("/v1/packages/chunks/missing", asked).data, type=bodies.MissingChunks)
    assert second.missing == ()
    stored = alice.call("POST", "/v1/packages", manifest)
    assert stored.status == 201
    assert msgspec.json.decode(stored.data, type=bodies.PackageStored).artifact == artifact_id(manifest)


def test_chunk_of_another_digest_is_refused(alice: Client) -> None:
    answer = alice.call("PUT", f"/v1/packages/chunks/{'a' * 64}", b"other bytes")
    assert (answer.status, answer.error.kind) == (400, "input")


def test_manifest_with_missing_chunks_is_refused_and_says_what_to_do(alice: Client) -> None:
    answer = alice.call("POST", "/v1/packages", make_package()[0])
    assert (answer.status, answer.error.todo) == (400, "upload them first")


def test_manifest_of_garbage_is_refused(alice: Client) -> None:
    assert alice.call("POST", "/v1/packages", b"\x80\x04garbage").status == 400


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_job_runs_from_submission_to_model(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    answer = alice.submit(make_request(package))
    job = status_of(answer).job
    assert answer.headers["location"] == f"/v1/jobs/{job}"
    events = read_events(alice, f"/v1/jobs/{job}/events")
    assert events[-1] == ("end", b'{"ended":true}')
    last = msgspec.json.decode(events[-2][1], type=JobStatus)
    assert last.phase is Phase.DELIVERED
    manifest = alice.get(f"/v1/jobs/{job}/artifacts/{last.model}")
    assert artifact_id(manifest.data) == last.model
    for chunk in door.service.chunks:
        assert digest_of(alice.get(f"/v1/jobs/{job}/chunks/{chunk}").data) == chunk


def test_submission_twice_with_one_key_is_one_job(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    first, second = (status_of(alice.submit(make_request(package))).job for _ in range(2))
    other = status_of(alice.submit(make_request(package), key="k2")).job
    assert first == second != other
    assert len(msgspec.json.decode(alice.get("/v1/jobs").data, type=tuple[JobStatus, ...])) == 2


def test_submission_without_key_is_400(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    answer = alice.post("/v1/jobs", make_request(package))
    assert (answer.status, "Idempotency-Key" in answer.error.what) == (400, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"name": 3}', b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "type", "binary", "deep"],
)
def test_submission_of_a_bad_body_is_400_with_the_place(alice: Client, body: bytes) -> None:
    answer = alice.call("POST", "/v1/jobs", body, Idempotency_Key="k")
    assert (answer.status, answer.error.kind) == (400, "input")
    assert answer.error.what


def test_submission_with_unknown_field_is_400(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    body = msgspec.to_builtins(make_request(package)) | {"deadlin_s": 3}
    answer = alice.post("/v1/jobs", body, Idempotency_Key="k")
    assert (answer.status, "deadlin_s" in answer.error.what) == (400, True)


def test_submission_with_targets_the_contract_lacks_is_400(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    body = msgspec.to_builtins(make_request(package)) | {"targets": [{"metric": "beauty", "value": 1.0}]}
    answer = alice.post("/v1/jobs", body, Idempotency_Key="k")
    assert (answer.status, "beauty" in answer.error.what) == (400, True)


def test_job_of_somebody_else_is_as_unknown_as_none(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    job = status_of(alice.submit(make_request(package))).job
    mallory = Client(door, door.token("mallory"))
    paths = [f"/v1/jobs/{job}", f"/v1/jobs/{job}/log", f"/v1/jobs/{job}/events", f"/v1/jobs/{job}/artifacts/{package}"]
    for path in paths:
        theirs, none = mallory.get(path), mallory.get(path.replace(job, "j999"))
        assert (theirs.status, none.status) == (404, 404)
        assert theirs.error.what.replace(job, "") == none.error.what.replace("j999", "")
    assert mallory.post(f"/v1/jobs/{job}/cancel").status == 404
    assert msgspec.json.decode(mallory.get("/v1/jobs").data) == []


def test_artifact_the_job_does_not_give_out_is_404(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    job = status_of(alice.submit(make_request(package))).job
    assert alice.get(f"/v1/jobs/{job}/artifacts/{'f' * 64}").status == 404
    assert alice.get(f"/v1/jobs/{job}/chunks/{'f' * 64}").status == 404


def test_log_is_read_from_where_one_was(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    job = status_of(alice.submit(make_request(package))).job
    read_events(alice, f"/v1/jobs/{job}/events")
    whole = msgspec.json.decode(alice.get(f"/v1/jobs/{job}/log").data, type=tuple[LogEntry, ...])
    rest = msgspec.json.decode(alice.get(f"/v1/jobs/{job}/log?start=5").data, type=tuple[LogEntry, ...])
    assert whole[5:] == rest
    assert alice.get(f"/v1/jobs/{job}/log?start=x").status == 400


def test_card_of_a_finished_job_tells_its_lineage_and_runs_again(door: Door, alice: Client) -> None:
    package = door.on_loop(lambda: put_package(door.service))
    job = status_of(alice.submit(make_request(package))).job
    read_events(alice, f"/v1/jobs/{job}/events")
    card = msgspec.json.decode(alice.get(f"/v1/jobs/{job}/card").data, type=ModelCard)
    assert (card.job, card.package) == (job, package)
    assert card.lineage
    assert card.rerun.method
    again = status_of(alice.submit(card.rerun, key="again")).job
    assert again != job


def test_pause_resume_cancel_follow_the_job(held_door: Door) -> None:
    client = Client(held_door, held_door.token())
    package = held_door.on_loop(lambda: put_package(held_door.service))
    job = status_of(client.submit(make_request(package))).job
    early = client.post(f"/v1/jobs/{job}/pause")
    assert (early.status, early.error.kind) == (409, "conflict")
    held_door.answer_until(lambda: held_door.service.status("alice", job).phase is Phase.RUNNING)  # type: ignore[arg-type]
    assert status_of(client.post(f"/v1/jobs/{job}/pause")).phase is Phase.PAUSED
    assert status_of(client.post(f"/v1/jobs/{job}/pause")).phase is Phase.PAUSED
    assert status_of(client.post(f"/v1/jobs/{job}/resume")).phase is Phase.RUNNING
    assert status_of(client.post(f"/v1/jobs/{job}/cancel")).phase is Phase.CANCELLED
    assert status_of(client.post(f"/v1/jobs/{job}/cancel")).phase is Phase.CANCELLED
    assert client.post(f"/v1/jobs/{job}/resume").status == 409
    assert client.get(f"/v1/jobs/{job}/card").status == 409


def test_change_merges_into_the_request(held_door: Door) -> None:
    client = Client(held_door, held_door.token())
    package = held_door.on_loop(lambda: put_package(held_door.service))
    job = status_of(client.submit(make_request(package, method="cyclic"))).job
    patch = {"deadline_s": 900, "hyperparameters": {"learning_rate": 0.1}, "method": None}
    changed = client.call("PATCH", f"/v1/jobs/{job}", msgspec.json.encode(patch))
    request = status_of(changed).request
    assert (request.deadline_s, request.hyperparameters.learning_rate, request.method) == (900, 0.1, "")
    assert request.name == "lesions"
    wrong = client.call("PATCH", f"/v1/jobs/{job}", b'{"deadline_s": -1}')
    assert (wrong.status, "deadline_s" in wrong.error.what) == (400, True)
    assert client.call("PATCH", f"/v1/jobs/{job}", b'{"package": "%s"}' % (b"a" * 64)).status == 409


def test_watch_of_running_job_sends_each_change(held_door: Door) -> None:
    client, watcher = Client(held_door, held_door.token()), Client(held_door, held_door.token())
    package = held_door.on_loop(lambda: put_package(held_door.service))
    job = status_of(client.submit(make_request(package))).job
    events: list[tuple[str, bytes]] = []
    reader = threading.Thread(target=lambda: events.extend(read_events(watcher, f"/v1/jobs/{job}/events")))
    reader.start()
    ended = lambda: held_door.service.status("alice", job).ended_unix_s is not None  # type: ignore[arg-type]  # noqa: E731
    while not held_door.on_loop(ended):
        held_door.on_loop(lambda: held_door.service.answer() if held_door.service.orders else None)
    reader.join(20)
    assert events[-1] == ("end", b'{"ended":true}')
    statuses = [msgspec.json.decode(data, type=JobStatus) for name, data in events if name == "status"]
    assert statuses[-1].phase is Phase.DELIVERED
    assert all(after.log_length >= before.log_length for before, after in itertools.pairwise(statuses))


# --- operators and manual -------------------------------------------------------------------------------------------


def test_map_shows_nodes_to_any_token(door: Door, alice: Client) -> None:
    nodes = msgspec.json.decode(alice.get("/v1/nodes").data, type=tuple[bodies.NodeOnMap, ...])
    assert [node.descriptor.name for node in nodes] == ["h1", "h2", "v1"]
    assert all(node.reachable for node in nodes)


def test_operator_makes_tokens_and_expels(door: Door) -> None:
    operator = Client(door, door.token("ops", "operate"))
    joined = operator.post("/v1/tokens/join", {"operator": "st-mary", "roles": ["data"]})
    assert (joined.status, b"daitn-join1.st-mary" in joined.data) == (201, True)
    made = msgspec.json.decode(operator.post("/v1/tokens/owner", {"owner": "bob"}).data, type=bodies.TokenMade).token
    bob = Client(door, made)
    assert bob.get("/v1/jobs").status == 200
    named = msgspec.json.decode(operator.get("/v1/tokens/owner").data, type=tuple[bodies.TokenNamed, ...])
    identity = next(one.id for one in named if one.owner == "bob")
    assert operator.call("DELETE", f"/v1/tokens/owner/{identity}").status == 200
    assert bob.get("/v1/jobs").status == 401
    assert operator.post("/v1/nodes/n-h1/expel", {"reason": "stolen"}).status == 204
    assert door.service.expelled == [("n-h1", "stolen")]
    assert operator.post("/v1/nodes/n-h9/expel", {}).status == 404


def test_operator_request_the_policy_refuses_is_403(door: Door) -> None:
    answer = Client(door, door.token("ops", "operate")).post("/v1/tokens/join", {"operator": "stranger"})
    assert (answer.status, answer.error.kind) == (403, "policy")


def test_unknown_path_and_method_are_problems_too(alice: Client) -> None:
    assert (alice.get("/v1/nowhere").status, alice.get("/v1/nowhere").error.kind) == (404, "unknown")
    assert alice.call("DELETE", "/v1/jobs").status == 405


def test_manual_describes_bodies_by_the_types_that_are_sent(door: Door) -> None:
    document = json.loads(Client(door, None).get("/openapi.json").data)
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Request"}
    properties = document["components"]["schemas"]["Request"]["properties"]
    assert set(properties) == set(Request.__struct_fields__)
    used = {name for name in msgspec.json.encode(document).decode().split('"') if name.startswith("#/components/")}
    assert {name.rpartition("/")[2] for name in used} <= set(document["components"]["schemas"])
    for operations in document["paths"].values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert "default" in operation["responses"]


def test_error_inside_the_service_is_500_without_a_trace(door: Door, alice: Client) -> None:
    def broken(owner: str) -> tuple[JobStatus, ...]:
        raise ZeroDivisionError("/secret/path")

    door.service.jobs = broken  # type: ignore[method-assign,assignment]
    answer = alice.get("/v1/jobs")
    assert (answer.status, answer.error.kind) == (500, "bug")
    assert b"/secret" not in answer.data


def test_unavailable_service_is_503_with_retry_after(door: Door, alice: Client) -> None:
    from daitn.base.errors import UnavailableError

    def full(chunks: object) -> tuple[str, ...]:
        raise UnavailableError("the disk is full")

    door.service.missing_chunks = full  # type: ignore[method-assign,assignment]
    answer = alice.post("/v1/packages/chunks/missing", {"chunks": []})
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_token_of_unknown_scope_or_owner_name_is_refused(door: Door) -> None:
    with pytest.raises(InputError, match="scopes"):
        door.tokens.create("alice", ["fly"])
    with pytest.raises(InputError, match="owner name"):
        door.tokens.create("Alice & Co", ["train"])
