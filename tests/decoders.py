"""The decoders of the package: how each is called with bytes, and bytes that are right.

`tests/property/test_decoders_hostile.py` drives them, `tests/architecture/test_hostile.py` finds one that is missing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import gzip
import io
import math
import socket
import sqlite3
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from tests.builders import (
    bench,
    make_contract,
    make_data,
    make_evaluation,
    make_outcome,
    make_policy,
    make_request,
    make_work,
)
from tests.contract import test_readers as readers
from tests.hostile import Case, survives
from tests.text_world import write_base

from daitn.artifacts import signatures
from daitn.artifacts.graph import HEADER as GRAPH_HEADER
from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import read_package, write_package
from daitn.artifacts.tensor_file import read_header
from daitn.base.decoding import from_msgpack
from daitn.base.effects import Record
from daitn.base.errors import PeerError
from daitn.base.ids import (
    CENTER,
    ArtifactId,
    ChunkId,
    DataSetId,
    DomainId,
    GrantId,
    ModelName,
    NodeId,
    OperatorId,
    VisitId,
)
from daitn.base.metrics import Count
from daitn.base.units import parse_bytes
from daitn.cli.access import host_policy, parse_access, parse_engine, parse_listen, parse_window
from daitn.control_center.training.job_state import JobState
from daitn.demo.medquad import data as medquad
from daitn.demo.medquad.sites import INSTITUTES
from daitn.describe.column_map import ColumnMap
from daitn.describe.conversion import convert_texts, parse_numbers
from daitn.describe.croissant.conditions import policy_of
from daitn.describe.croissant.reading import read_croissant
from daitn.describe.ledger import EpsilonSpent
from daitn.describe.table import MappedTable
from daitn.descriptors.compression import parse_compression
from daitn.descriptors.contract import decode_contract
from daitn.descriptors.destinations import parse_destination, parse_networks
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.facts import group_named
from daitn.descriptors.job import LogEntry
from daitn.descriptors.pipelines import Cascade, ModelStep
from daitn.descriptors.privacy import parse_privacy
from daitn.descriptors.question_text import parse_question
from daitn.descriptors.request import parse_target
from daitn.descriptors.serving import NamedTensor, parse_goal
from daitn.descriptors.terminals import Role
from daitn.descriptors.texts import Generation, Given, TextBatch, TextTask
from daitn.learning import pretrained, text_models
from daitn.learning.base_files import read_config
from daitn.learning.bases import FrozenBase
from daitn.learning.masking import round_keys
from daitn.learning.records import records_from_tensors
from daitn.learning.text_models import TextModel
from daitn.learning.tokenizer_file import decode_tokens, encode_texts, open_tokenizer, read_tokenizer
from daitn.learning.weight_files import load_weights
from daitn.node import enrolment, map_store, pki
from daitn.node.activations import Cached, read_about
from daitn.node.data_watch import SENSED, ReleasedDynamics, read_sensed
from daitn.node.datasets import DataShelf
from daitn.node.domain_folder import DomainConfig, DomainFolder
from daitn.node.engines import server_calls, tensor_server, text_server
from daitn.node.enrolment_server import EnrolmentConfig, EnrolmentServer
from daitn.node.fabric import chunks, keys, streams_direct, streams_light, streams_routed
from daitn.node.fabric.bulk import ChunkBatch
from daitn.node.fabric.link_ledger import decode_tcp_info
from daitn.node.fabric.router import RouterConfig, encode_config, load_config
from daitn.node.fabric.streams import StreamHello
from daitn.node.http import api, bodies
from daitn.node.http.owner_token import OwnerToken, parse_owner_token
from daitn.node.journal import Journal
from daitn.node.node_config import NodeConfig, NodeFolder
from daitn.node.readers.pictures import decode_picture
from daitn.node.readers.sources import open_reader
from daitn.node.sandbox import protocol, text_protocol
from daitn.node.sandbox.answers import plan_run
from daitn.node.sandbox.channel import ChildChannel
from daitn.node.serving import inference_protocol, openai_protocol, quick_door, switching
from daitn.node.serving.outcome_book import decode_feedback
from daitn.node.site_files import load_column_map, load_contract, load_offers, load_pipelines, load_policy
from daitn.node.slot_book import SqliteSlotBook
from daitn.node.store.index import PackedChunk, PackIndex, read_index
from daitn.oam.collection import FILE, read_counters
from daitn.oam.progress import job_status
from daitn.oam.proofs import Proof
from daitn.scenario.files import load_scenario, policy_toml
from daitn.sdk import gateway_calls, jobs, map_questions, query_ways, requests, transport
from daitn.sdk import network as sdk_network
from daitn.sdk.proofs import check_proofs
from daitn.serving.sealing import seal_query
from daitn.serving.tensors import array_of
from daitn.serving.webhook_signing import verify_webhook
from daitn.tools.sensing import Sensed
from daitn.topology.fact_book import FactBook
from daitn.topology.image_making import make_image
from daitn.topology.intake import FactIntake
from daitn.topology.map_entries import ReportsEntry, apply_entry
from daitn.topology.map_image import load_image
from daitn.wire import answers, handed, queries, secret_queries
from daitn.wire.center_tools import VisitReport, encode_report
from daitn.wire.oam import Counted, decode_counted, encode_counted
from daitn.wire.packed_facts import encode_parts, encode_records, part_dtype, record_dtype

SCENARIOS = Path(__file__).parent / "simulation" / "scenarios"
DOMAIN = DomainId("demo")
NODE = NodeId("n0001")
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PEM = KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
PUBLIC = signatures.public_hex(KEY)
CONTRACT = make_contract()
SECRET = b"s" * 32


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def plain(value: Any) -> bytes:
    return msgspec.json.encode(value)


def as_text(data: bytes) -> str:
    return data.decode("latin-1")


CACHED = Cached(
    dataset="d",
    version="1",
    base="b" * 64,
    column="text",
    length=64,
    pooling="mean",
    records=2,
    width=4,
    size_bytes=16,
    seconds=0.1,
    made_unix_s=1.0,
    stays="job",
)


def in_file(name: str, read: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """Write the bytes to a file of that name, then read it."""

    def call(data: bytes, folder: Path) -> Any:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o600)
        return read(path)

    return call


# --- the map on the disk, and reports of facts ------------------------------------------------------------------------


def map_of_one() -> FactIntake:
    """A map with a terminal that reports."""
    intake = FactIntake(FactBook())
    intake.begin(NodeId("n0001"), 7)
    intake.announce(NodeId("n0001"), Kind.TERMINAL, 0, ["n0001"])
    return intake


def report_of_load() -> bytes:
    """One report of that terminal."""
    record = np.zeros(1, record_dtype(group_named("load")))
    record["sequence"], record["generated_ns"] = 1, 10**18
    return encode_records(group_named("load"), record, sequence=1, incarnation=7)


PACKED_REPORT = report_of_load()


def part_of_load() -> bytes:
    """A report of some facts of that terminal."""
    record = np.zeros(1, part_dtype(group_named("load"), 0b1001))
    record["sequence"] = 2
    return encode_parts(group_named("load"), 0b1001, record, sequence=2, incarnation=7, at_ns=10**12)


PACKED_PART = part_of_load()


def take_reports(data: bytes, _: Path) -> None:
    """Give a report to the map."""
    intake = map_of_one()
    intake.take_messages([NodeId("n0001")] * 2, [data, PACKED_REPORT], 10**18)


def snapshot_bytes() -> bytes:
    """A snapshot of that map, with its report taken."""
    intake = map_of_one()
    intake.take_messages([NodeId("n0001")], [PACKED_REPORT], 10**18)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot.map"
        map_store.write_snapshot(path, *make_image(intake, 10**18))
        return path.read_bytes()


SNAPSHOT = snapshot_bytes()
HEAD_BYTES = map_store.PREFIX.unpack(SNAPSHOT[: map_store.PREFIX.size])[2]
SNAPSHOT_HEAD = SNAPSHOT[map_store.PREFIX.size : map_store.PREFIX.size + HEAD_BYTES]
SNAPSHOT_ARRAYS = SNAPSHOT[-(-(map_store.PREFIX.size + HEAD_BYTES) // map_store.ALIGN) * map_store.ALIGN : -32]


def load_snapshot(path: Path) -> None:
    """Read a snapshot and make the map of it, and ask it everything."""
    intake = load_image(*map_store.read_snapshot(path), "the snapshot")
    for table in intake.book.tables.values():
        for group in table.groups():
            for fact in group.facts:
                [table.value(row, fact.name) for row in range(table.high)]


def load_snapshot_of_head(head: bytes, folder: Path) -> None:
    """A snapshot whose digest holds, with this head."""
    start = map_store.PREFIX.pack(map_store.MAGIC, map_store.FORMAT, len(head)) + head
    body = start + bytes(-len(start) % map_store.ALIGN) + SNAPSHOT_ARRAYS
    in_file("snapshot.map", load_snapshot)(body + blake3(body).digest(), folder)


def journal_of(body: bytes, folder: Path) -> None:
    """Apply a journal of one entry, whose checksum holds."""
    entry = map_store.ENTRY.pack(len(body), blake3(body).digest(length=8)) + body

    def apply(path: Path) -> None:
        for one in map_store.read_entries(path):
            apply_entry(map_of_one(), one)

    in_file("entries.log", apply)(entry, folder)


ENTRY_KEPT = msgspec.msgpack.encode(
    ReportsEntry(received_ns=10**18, senders=[NodeId("n0001")], payloads=[PACKED_REPORT])
)

# --- what peers send --------------------------------------------------------------------------------------------------

REPORT = VisitReport(visit=VisitId("job-1/1"), fence=1, work=make_work(), outcome=make_outcome(make_work()))
PROOF = Proof(
    visit=REPORT.visit,
    fence=1,
    node=NODE,
    node_name="one",
    package=ArtifactId("a" * 64),
    dataset="s/d",
    data_version="v",
    models_in=(),
    model_out=None,
    test_set="",
    report=base64.b64encode(encode_report(REPORT)).decode(),
    signature="00" * 64,
)
AUTHORITY_FOLDER = tempfile.TemporaryDirectory(prefix="hostile-")
AUTHORITY = pki.create_authority(Path(AUTHORITY_FOLDER.name) / "a", DOMAIN)
CSR, NODE_KEY = pki.make_request("one")
MEMBERSHIP = enrolment.Membership(
    slot=NODE,
    name="one",
    domain=DOMAIN,
    operator=OperatorId("lab"),
    roles=("data",),
    enrolment=("127.0.0.1:1",),
    network=enrolment.NetworkSettings(routers=("127.0.0.1:1",)),
)
JOIN_TOKEN = enrolment.JoinToken(("127.0.0.1:1",), DOMAIN, bytes(32), bytes(24)).encode()
SIGNER = signatures.public_hex(Ed25519PrivateKey.from_private_bytes(bytes(32)))

OWNER_TOKEN = str(OwnerToken(address="127.0.0.1:1", domain=DOMAIN, fingerprint=bytes(32), secret=bytes(32)))


def read_answer_of_enrolment(data: bytes) -> None:
    """What a node makes of an enrolment endpoint's answer, good or bad."""
    context = ssl.create_default_context()
    asked = enrolment.RenewRequest(csr="")
    with pytest.MonkeyPatch.context() as patch:
        for status in (200, 403, 503):
            patch.setattr(enrolment, "_ask", lambda *_, status=status: (status, data))
            survives(lambda: enrolment._post("x:1", "/enrol", asked, enrolment.EnrolAnswer, context))


class FakeRequest:
    """As much of a web request as the bodies' readers need."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.path, self.remote, self.headers = "/enrol", "127.0.0.1", {"content-length": str(len(data))}

    async def read(self) -> bytes:
        return self._data

    async def stream(self) -> Any:
        yield self._data


def answer_enrolment(data: bytes, folder: Path) -> None:
    """The endpoint answers whatever comes with a status of 400 or 403."""
    config = EnrolmentConfig(network=MEMBERSHIP.network)
    book = SqliteSlotBook(folder / "slots.sqlite", slots=4)
    try:
        server = EnrolmentServer(config, AUTHORITY, book)
        answer = asyncio.run(server._enrol(FakeRequest(data)))  # type: ignore[arg-type]
        assert answer.status in (400, 403)
        assert server.counters.of("enrolments") == 1
    finally:
        book.close()


def read_body(kind: type) -> Callable[[bytes, Path], Any]:
    return lambda data, _: asyncio.run(api._read(FakeRequest(data), kind))  # type: ignore[arg-type, type-var]


def patch_request(data: bytes, _: Path) -> Any:
    patch = asyncio.run(api._read(FakeRequest(data), dict[str, Any]))  # type: ignore[arg-type]
    return api._patched(make_request(), patch)


def receive_in_child(data: bytes, _: Path) -> Any:
    """A frame from the node, as the child takes it; the header is right or not."""
    near, far = socket.socketpair()
    with near, contextlib.closing(ChildChannel(far.detach())) as channel:
        near.sendall((protocol.HEADER.pack(len(data), 0) + data)[:60_000])
        near.shutdown(socket.SHUT_WR)
        return channel.receive()


def receive_any_frame_in_child(data: bytes, _: Path) -> Any:
    near, far = socket.socketpair()
    with near, contextlib.closing(ChildChannel(far.detach())) as channel:
        near.sendall(data[:60_000])
        near.shutdown(socket.SHUT_WR)
        return channel.receive()


def header_of_answer(data: bytes, _: Path) -> Any:
    return protocol.answer_length(data[:5].ljust(5, b"\x00"))


def records_of(data: bytes, _: Path) -> Any:
    """Records as a peer's tensors: name → type, shape and bytes."""
    sent = from_msgpack(data, dict[str, tuple[Literal["float32", "int64", "bool"], tuple[int, ...], bytes]], "records")
    arrays: dict[str, Any] = {}
    for name, (kind, shape, body) in sent.items():
        with contextlib.suppress(ValueError):  # what tensors are is checked before, with the manifest
            arrays[name] = np.frombuffer(body, dtype=kind).reshape(shape)
    return records_from_tensors(arrays, CONTRACT, DataSetId("s/d"))


def check_log(data: bytes, _: Path) -> Any:
    entries = msgspec.json.decode(
        plain([LogEntry(number=1, unix_s=0.0, kind="accepted", text="", proof=as_text(data))])
    )
    checks = check_proofs(msgspec.convert(entries, tuple[LogEntry, ...]), {NODE: PUBLIC})
    assert not any(check.holds for check in checks)


def check_report(data: bytes, _: Path) -> Any:
    proof = msgspec.structs.replace(PROOF, report=base64.b64encode(data).decode())
    entry = LogEntry(number=1, unix_s=0.0, kind="accepted", text="", proof=plain(proof).decode())
    assert not any(check.holds for check in check_proofs([entry], {NODE: PUBLIC}))


# --- what lies in files -----------------------------------------------------------------------------------------------


class Noted(Record, frozen=True, kw_only=True):
    number: int


def journalled(data: bytes, folder: Path) -> Any:
    """A record whose body is anything, with a checksum that is right: another program wrote it."""
    path = folder / "journal.sqlite"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    journal = Journal(path, [Noted])
    try:
        checksum = journal_checksum("s", 1, 0, "Noted", data)
        return journal._decode("s", 1, 0, "Noted", data, checksum)
    finally:
        journal.close()


def journal_checksum(*parts: Any) -> bytes:
    from daitn.node import journal as module

    return bytes(module._checksum(*parts))


def index_with(data: bytes, folder: Path) -> Any:
    """Rows of the store's index that hold anything are passed over."""
    path = folder / "index.sqlite"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    index = PackIndex(path)
    try:
        index._database.execute(
            "INSERT OR REPLACE INTO packs VALUES (?,?,?,?,?,?,?,?,?)", ("a", None, 1, 1, 1, 1, "", 1, data)
        )
        return list(index.load())
    finally:
        index.close()


def index_found_beside(data: bytes, folder: Path) -> Any:
    """The same rows, read from beside a store that may be running."""
    index_with(data, folder)
    path = folder / "index.sqlite"
    database = sqlite3.connect(path)
    database.execute("INSERT OR REPLACE INTO packs VALUES (?,?,?,?,?,?,?,?,?)", ("a", None, 1, 1, 1, 1, "", 1, data))
    database.commit()
    database.close()
    return read_index(path)


CROISSANT = {
    "name": "d",
    "conformsTo": "http://mlcommons.org/croissant/1.1",
    "usageInfo": [
        "DUO_0000042",
        {
            "@type": "odrl:Offer",
            "odrl:permission": {
                "odrl:action": {"@id": "odrl:use"},
                "odrl:constraint": [
                    {
                        "odrl:leftOperand": {"@id": name},
                        "odrl:operator": {"@id": "odrl:isAnyOf"},
                        "odrl:rightOperand": [value],
                    }
                    for name, value in (("odrl:purpose", "care"), ("daitn:sampleFrac", 0.1), ("odrl:recipient", "a"))
                ],
            },
        },
    ],
    "recordSet": [
        {
            "@id": "r",
            "field": [
                {"@id": "r/x", "dataType": "sc:Float", "minValue": 0, "source": {"extract": {"column": "X"}}},
                {"@id": "r/v", "dataType": "sc:Float", "isArray": True, "arrayShape": "3"},
                {"@id": "r/p", "dataType": "sc:ImageObject", "daitn:shape": "1,8,8"},
                {"@id": "r/y", "dataType": ["sc:Text", "cr:Label"], "references": {"field": {"@id": "k/name"}}},
            ],
        },
        {"@id": "k", "dataType": "sc:Enumeration", "data": [{"k/name": "a"}, {"k/name": "b"}]},
    ],
}


AGREED = X25519PrivateKey.from_private_bytes(bytes(range(32)))
POINT = AGREED.public_key().public_bytes_raw()
HEAD = b"POST /v2/models/m/versions/1/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2"
TOKENIZER = plain(
    {
        "version": "1.0",
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "added_tokens": [
            {
                "id": 0,
                "content": "[UNK]",
                "special": True,
                **dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False),
            }
        ],
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]"},
    }
)
BASE_CONFIG = plain(
    {
        "model_type": "bert",
        "vocab_size": 62,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
)
PANICS = tuple(
    plain(msgspec.json.decode(TOKENIZER) | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": table}})
    for table in ("AQ==", "BAAAAAAAAAA=")
)
"""Files at which the library panics: when it reads the file, and at the first text."""
QUESTION = b'{"question":"what is it?","answer":"a failing heart","focus":"Heart Failure"}'


def seal_for(data: bytes, _: Path) -> Any:
    """A query for a host whose key, as a gateway told it, is anything."""
    return seal_query((), 1, {NODE: data}, "m", ArtifactId("a" * 64))


def tokenizer_beside(path: Path) -> Any:
    """The tokenizer of a folder, put to use on a text."""
    tokenizer = read_tokenizer(path.parent)
    (tokens,) = encode_texts(tokenizer, ["a b"])
    return decode_tokens(tokenizer, tokens)


def rows_of_institute(path: Path) -> Any:
    return list(medquad._rows(path))


def read_first_institute(path: Path) -> Any:
    return medquad.read_institute(path.parent, INSTITUTES[0], frozenset({"heart failure"}))


def croissant(data: bytes, _: Path) -> Any:
    """A document that is read, and its conditions turned into a policy."""
    read = read_croissant(data)
    return read if read.conditions is None else policy_of(read.conditions, accepted=["DUO_0000021"])


def shelf_with(name: str, use: Callable[[DataShelf], Any]) -> Callable[[bytes, Path], Any]:
    def call(data: bytes, folder: Path) -> Any:
        shelf = DataShelf(folder / "data", SECRET)
        (folder / "data" / name).write_bytes(data)
        return use(shelf)

    return call


def table_with(file: str) -> Callable[[bytes, Path], Any]:
    """A mapped table one of whose files holds anything."""

    def call(data: bytes, folder: Path) -> Any:
        good = GOOD_TABLE
        mapped = folder / "table"
        mapped.mkdir(exist_ok=True)
        for path in good.iterdir():
            (mapped / path.name).write_bytes(path.read_bytes())
        (mapped / file).write_bytes(data)
        return MappedTable.open(mapped)

    return call


def make_table(folder: Path) -> Path:
    (folder / "d.csv").write_text("x0,x1,label\n1,2,0\n3,4,1\n")
    (folder / "contract.json").write_bytes(plain(TABLE_CONTRACT))
    DataShelf(folder, SECRET).add("d", folder / "d.csv", TABLE_CONTRACT, make_policy(), ColumnMap())
    return DataShelf(folder, SECRET).path("d")


def package_with(file: str) -> Callable[[bytes, Path], Any]:
    """A model package one of whose files holds anything."""

    def call(data: bytes, folder: Path) -> Any:
        package = folder / "package"
        if not package.exists():
            write_package(package, PACKAGE_DRAFT, PACKAGE_PARTS, PACKAGE_TENSORS)
        good = (package / file).read_bytes()
        try:
            (package / file).write_bytes(data)
            return read_package(package)
        finally:
            (package / file).write_bytes(good)

    return call


@functools.cache
def good_base() -> dict[str, bytes]:
    """The files of a tiny encoder, made when they are first needed: transformers is slow to load."""
    with tempfile.TemporaryDirectory() as folder:
        return {path.name: path.read_bytes() for path in write_base(Path(folder)).iterdir()}


def with_base(file: str, use: Callable[[Path], Any]) -> Callable[[bytes, Path], Any]:
    """A folder of a model one of whose files holds anything."""

    def call(data: bytes, folder: Path) -> Any:
        base = folder / "base"
        base.mkdir(exist_ok=True)
        for name, good in good_base().items():
            (base / name).write_bytes(good)
        (base / file).write_bytes(data)
        return use(base)

    return call


def good_package_file(file: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "package"
        write_package(package, PACKAGE_DRAFT, PACKAGE_PARTS, PACKAGE_TENSORS)
        return (package / file).read_bytes()


def numbers_of(data: bytes, _: Path) -> Any:
    values = [as_text(data[start : start + 12]) or None for start in range(0, min(len(data), 600), 12)]
    converted = parse_numbers(values, frozenset({"n/a"}))
    assert all(math.isfinite(value) or math.isnan(value) for value in converted[0].tolist())
    return convert_texts(values)


def source(name: str) -> Callable[[bytes, Path], Any]:
    """A data file that holds anything, read to its end."""

    def call(data: bytes, folder: Path) -> Any:
        path = folder / name
        path.write_bytes(data)
        reader = open_reader(path)
        reader.columns()
        return sum(len(next(iter(batch.values()), [])) for batch in reader.read())

    return call


def idx_with(data: bytes, folder: Path) -> Any:
    (folder / "d-images-idx3-ubyte").write_bytes(data)
    (folder / "d-labels-idx1-ubyte").write_bytes(IDX_LABELS)
    reader = open_reader(folder / "d-images-idx3-ubyte")
    reader.columns()
    return sum(len(batch["image"]) for batch in reader.read())


def written(write: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder)).read_bytes()


def picture() -> bytes:
    return readers.png(readers.IMAGES[0])


IDX_IMAGES = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2)) + bytes(range(8))
IDX_LABELS = bytes((0, 0, 8, 1, 0, 0, 0, 2, 0, 1))
TABLE_CONTRACT = decode_contract(
    plain(
        {
            "name": "sides",
            "columns": [
                {"type": "number", "name": "x0"},
                {"type": "number", "name": "x1"},
                {"type": "category", "name": "label", "values": ["0", "1"]},
            ],
            "inputs": [{"type": "numbers", "name": "x", "columns": ["x0", "x1"]}],
            "task": {"type": "classification", "label": "label"},
        }
    )
)
TABLE_FOLDER = tempfile.TemporaryDirectory(prefix="hostile-")
GOOD_TABLE = make_table(Path(TABLE_FOLDER.name))
SHELF_INDEX = (Path(TABLE_FOLDER.name) / "index.json").read_bytes()
SPENT = EpsilonSpent(dataset="d", epsilon=1.0, at_ns=1, release="r")
PACKAGE_PARTS = {"contract": plain(TABLE_CONTRACT), "graph": GRAPH_HEADER + b"\x90"}
PACKAGE_TENSORS = {"w": np.zeros((2, 2), dtype=np.float32)}
_LAYOUT = plan_layout([TensorSpec(name="w", dtype="float32", shape=(2, 2))])
PACKAGE_DRAFT = Manifest(
    kind="graph", name="m", parts=(), tensors=_LAYOUT.entries, payload_bytes=_LAYOUT.payload_bytes, chunks=()
)
CONFIG = DomainConfig(domain=DOMAIN, host="127.0.0.1", router_port=1, enrol_port=2, api_port=3)
ROUTER = RouterConfig(domain=DOMAIN, certificate=Path("a"), key=Path("b"), authority=Path("c"))
RUN = plan_run(
    make_evaluation(), (), 0, Manifest(kind="graph", name="m", parts=(), tensors=(), payload_bytes=0, chunks=()).state
)
TRAINED = protocol.Finished(
    number=1,
    numbers=protocol.TrainNumbers(batches=1, records=1, loss_first=1.0, loss_last=0.5, update_norm=1.0),
    state=RUN.state,
)
SETUP = protocol.Setup(contract=plain(TABLE_CONTRACT), kind="graph", parts={"graph": b"g"})
ANSWERS = (
    TRAINED,
    protocol.Failed(number=1, reason=protocol.FailReason.INPUT, what="w"),
    protocol.Ready(warm_s=1.0, device="cpu", records=3, seconds=(0.5,)),
    protocol.PartOut(number=1, slot=2, size=3),
    protocol.PartTaken(number=1, slot=9),
)
INFER = plain(
    {
        "id": "q",
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1, 2.5]]}],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        "parameters": {"deadline_ms": 20, "min_accuracy": 0.5, "region": "north"},
    }
)
INFER_BINARY = plain(
    {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]},
) + bytes(8)
TENSOR = NamedTensor(name="x", datatype="FP32", shape=(1, 2), data=bytes(8))
SECRET_QUERY = secret_queries.SecretQuery(
    artifact=ArtifactId("a" * 64), rows=1, capsules={NodeId("n0001"): bytes(80)}, data=b"sealed"
)
SECRET_TEXT = secret_queries.SecretTextQuery(
    artifact=ArtifactId("a" * 64), tokens_most=9, capsules={NodeId("n0001"): bytes(80)}, data=b"sealed"
)
TO_HOST = (
    answers.TextAsked(
        query=1,
        model=ModelName("m"),
        artifact=ArtifactId("a"),
        left_s=1.0,
        asked=Generation(prompt="once"),
        given=Given(tokens=(1, 2), text="upon"),
        pieces=4,
    ),
    answers.QueryAsked(
        query=2,
        call=queries.QueryCall(model=ModelName("m"), artifact=ArtifactId("a"), left_s=1.0, lease=7, inputs=(TENSOR,)),
    ),
    answers.QueryAsked(
        query=3,
        call=queries.QueryCall(
            model=ModelName("m"),
            artifact=ArtifactId("a"),
            left_s=1.0,
            inputs=(),
            sealed=secret_queries.SealedPart(capsule=bytes(80), data=b"sealed"),
        ),
    ),
    answers.QueryAsked(query=4, call=queries.KeyCall()),
    answers.SecretTextAsked(
        query=5,
        model=ModelName("m"),
        artifact=ArtifactId("a"),
        left_s=1.0,
        sealed=secret_queries.SealedPart(capsule=bytes(80), data=b"sealed"),
        pieces=4,
    ),
    answers.MoreWanted(query=1, pieces=2),
    answers.NoMoreWanted(query=1),
)
FROM_HOST = (
    answers.TextPiece(query=1, at=4, tokens=(3,), text="a"),
    answers.SealedPiece(query=5, number=0, data=b"sealed"),
    answers.TextEnded(query=1, reason="stop"),
    answers.BatchAnswered(query=2, values=TENSOR, labels=("no",)),
    answers.TextRefused(query=3, reason="busy", what="later"),
    answers.QueryDone(
        query=5,
        answer=queries.KeyTold(
            statement=secret_queries.KeyStatement(host=NodeId("n"), key=bytes(32), certificate="", signature=b"s")
        ),
    ),
    answers.QueryDone(query=4, answer=queries.QueryAnswer(outputs=(TENSOR,), load=queries.HostLoad(lease=7, slots=4))),
    answers.QueryDone(query=5, answer=queries.QueryRefused(reason="busy", what="later", retry_after_s=1.0)),
)
PIECE = b'{"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":1}}'
PIPELINES = (
    b'[[pipeline]]\nname = "a"\n[pipeline.step]\nkind = "ensemble"\noutput = "p"\n'
    b'[[pipeline.step.steps]]\nkind = "model"\nmodel = "b"\n[[pipeline.step.steps]]\nkind = "model"\nmodel = "c"\n'
)
TEXT_ORDERS = (
    text_protocol.LoadTexts(folder="/base", task=TextTask.EMBED),
    text_protocol.Speak(number=1, asked=Generation(prompt="a"), given=Given(), tokens=4),
    text_protocol.Onward(number=1, tokens=4),
    text_protocol.Judge(number=2, asked=TextBatch(task="embed", texts=("a",))),
    text_protocol.Enough(number=1),
)
TEXT_ANSWERS = (
    text_protocol.Spoken(number=1, token=3, text="a"),
    text_protocol.SpokenAll(number=1, reason="stop", prompt_tokens=1, tokens=2),
    text_protocol.Judged(number=2, values=TENSOR, labels=("no",)),
)
CHAT = plain({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "stop": "b"})
OFFERS = b'[[offer]]\nengine = "simulated"\nmodel = "m"\nfirst_s = 0.1\n[offer.fault]\nevery = 3\nhow = "hang"\n'
COUNTED = encode_counted(Counted(since_unix_s=1.0, counts=(Count(name="leases_lapsed", count=1),)))
BATCH = packed(ChunkBatch(ArtifactId("a"), GrantId("g"), (ChunkId("c"),)))
REFUSAL = packed(chunks.Refusal("peer", "what"))
FRAME = packed(streams_routed.StreamFrame("s", 1, 2, b"body"))
HELLO = packed(streams_direct.DirectHello("s", "tag", True))
LIGHT_HELLO = packed(StreamHello("s", "tag"))
JOIN_BODY = packed(enrolment.JoinToken(("127.0.0.1:1",), DOMAIN, bytes(32), bytes(24)))
OWNER_BODY = packed(OwnerToken(address="127.0.0.1:1", domain=DOMAIN, fingerprint=bytes(32), secret=bytes(32)))
RECORDS = packed(
    {
        "input/x": ("float32", (2, 1), np.ones(2, dtype=np.float32).tobytes()),
        "label": ("int64", (2,), np.array([0, 1]).tobytes()),
        "fields": ("bool", (2, 1), b"\x00\x01"),
        "group": ("int64", (2,), np.array([5, 6]).tobytes()),
    }
)
PROBLEM = plain(bodies.Problem(error=bodies.ErrorBody(kind="input", what="w")))
ADAPTER = plain({"peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "target_modules": ["query"]})
MAP = b'missing = ["n/a"]\n[columns]\nage = "alter"\nsex = { column = "g", values = { m = "male" } }\n'
ENROLLED = enrolment.EnrolAnswer(
    slot=NODE,
    domain=DOMAIN,
    certificate="c",
    authority="a",
    roles=("data",),
    operator=OperatorId("lab"),
    network=MEMBERSHIP.network,
)


def submitted() -> JobState:
    """A job's state as the centre has it after its submission."""
    made = bench()
    made.submit()
    return made.state()


def read_keys(data: bytes, _: Path) -> None:
    """Keys as the router hands them over; whoever is named in one is a plain segment."""
    for read in (
        lambda key: keys.sender_of_message(key, DOMAIN, "cp", CENTER),
        lambda key: keys.source_of_telemetry(key, DOMAIN)[0],
        lambda key: keys.source_of_report(key, DOMAIN),
        lambda key: keys.node_of_presence(key, DOMAIN),
    ):
        for text in (as_text(data), "daitn/demo/cp/to/c0/from/" + as_text(data), "daitn/demo/live/" + as_text(data)):
            with contextlib.suppress(PeerError):
                assert "/" not in read(text)
                assert "*" not in read(text)


def authority_of(path: Path) -> Any:
    (path.parent / "authority.key").write_bytes((Path(AUTHORITY_FOLDER.name) / "a" / "authority.key").read_bytes())
    return pki.load_authority(path.parent)


def make_from_spec(data: bytes, _: Path) -> Any:
    """A request file's table, its keys as they come."""
    table = asyncio.run(api._read(FakeRequest(data), dict[str, Any]))  # type: ignore[arg-type]
    known = {key: table[key] for key in table if key not in ("name", "package", "purpose")}
    targets, deadline = known.pop("targets", "accuracy >= 0.5"), known.pop("deadline", 60)
    return requests.make_request(
        ArtifactId("a" * 64), name="job", purpose="care", targets=targets, deadline=deadline, **known
    )


def load_beside_its_files(path: Path) -> Any:
    (path.parent / "made-2").write_bytes(b"")
    return load_scenario(path)


def scenario_with_policy(data: bytes, folder: Path) -> Any:
    (folder / "p.toml").write_bytes(data)
    node = {
        "name": "a",
        "operator": "a",
        "roles": ["data"],
        "data": [{"name": "d", "contract": "made-2", "policy": "p.toml"}],
    }
    (folder / "s.json").write_bytes(plain({"name": "s", "nodes": [node]}))
    return load_beside_its_files(folder / "s.json")


def read_tensors(data: bytes, _: Path) -> Any:
    return read_header(data[:512], io.BytesIO(data), len(data), "a file")


def token_text(read: Callable[[str], Any]) -> Callable[[bytes, Path], Any]:
    """The bytes as a token's text, and as the body behind its prefix."""

    def call(data: bytes, _: Path) -> None:
        prefix = "daitn1." if read is enrolment.parse_token else "daitn-owner1."
        for text in (as_text(data), prefix + as_text(data), prefix + base64.urlsafe_b64encode(data).decode()):
            survives(lambda text=text: read(text))  # type: ignore[misc]

    return call


STATUS = plain(job_status(submitted(), str))
CASES = [
    # what lies on the centre's disk
    Case("node.map_store.read_snapshot", in_file("snapshot.map", load_snapshot), [SNAPSHOT]),
    Case("topology.map_image.load_image", load_snapshot_of_head, [SNAPSHOT_HEAD], "msgpack"),
    Case("node.map_store.read_entries", journal_of, [ENTRY_KEPT], "msgpack"),
    # what peers send
    Case("topology.intake.FactIntake.take_messages", take_reports, [PACKED_REPORT, PACKED_PART]),
    Case("node.fabric.link_ledger.decode_tcp_info", lambda data, _: decode_tcp_info(data), [bytes(range(232))]),
    Case("wire.oam.decode_counted", lambda data, _: decode_counted(data), [COUNTED], "msgpack"),
    Case("base.decoding.from_msgpack", lambda data, _: from_msgpack(data, ChunkBatch, "a batch"), [BATCH], "msgpack"),
    Case(
        "node.fabric.chunks.decode_refusal",
        lambda data, _: chunks.decode_refusal(data).error("n"),
        [REFUSAL],
        "msgpack",
    ),
    Case(
        "node.fabric.streams_routed.decode_frame", lambda data, _: streams_routed.decode_frame(data), [FRAME], "msgpack"
    ),
    Case(
        "node.fabric.streams_direct.decode_hello", lambda data, _: streams_direct.decode_hello(data), [HELLO], "msgpack"
    ),
    Case(
        "node.fabric.streams_light.decode_light_hello",
        lambda data, _: streams_light.decode_light_hello(data),
        [LIGHT_HELLO],
        "msgpack",
    ),
    Case(
        "node.fabric.keys.sender_of_message", read_keys, [b"daitn/demo/cp/to/c0/from/n0001", b"daitn/demo/live/n0001"]
    ),
    Case(
        "node.sandbox.protocol.decode_order",
        lambda data, _: protocol.decode_order(data),
        [packed(SETUP), packed(RUN)],
    ),
    Case(
        "node.sandbox.protocol.decode_answer",
        lambda data, _: protocol.decode_answer(data),
        [protocol.encode_frame(frame)[5:] for frame in ANSWERS],
        "msgpack",
    ),
    Case("node.sandbox.protocol.answer_length", header_of_answer, [protocol.encode_frame(TRAINED)[:5]]),
    Case(
        "node.sandbox.channel.ChildChannel.receive",
        receive_in_child,
        [protocol.encode_frame(RUN)[5:], protocol.encode_frame(SETUP)[5:]],
        "msgpack",
    ),
    Case("node.sandbox.channel.ChildChannel._read_header", receive_any_frame_in_child, [protocol.encode_frame(RUN)]),
    Case("learning.records.records_from_tensors", records_of, [RECORDS], "msgpack"),
    Case(
        "learning.pretrained._decode",
        lambda data, _: pretrained._decode(data, pretrained.PretrainedConfig),
        [plain({"auto_class": "AutoModel", "model_type": "bert", "values": {"hidden_size": 4}})],
        "json",
    ),
    Case(
        "learning.tokenizer_file.open_tokenizer",
        lambda data, _: open_tokenizer(data, "a tokenizer"),
        [TOKENIZER],
        "json",
    ),
    Case("learning.tokenizer_file.decode_tokens", in_file("tokenizer.json", tokenizer_beside), [TOKENIZER, *PANICS]),
    Case(
        "learning.weight_files.load_weights",
        in_file("w.safetensors", load_weights),
        [good_package_file("model.safetensors")],
    ),
    Case("learning.bases.FrozenBase", with_base("config.json", FrozenBase), [BASE_CONFIG], "json"),
    Case(
        "learning.text_models.TextModel",
        with_base("config.json", lambda folder: TextModel(folder, TextTask.EMBED)),
        [BASE_CONFIG],
        "json",
    ),
    Case("learning.masking.round_keys._agree", lambda data, _: round_keys._agree(AGREED, data), [POINT]),
    Case("learning.pretrained._read_adapter", lambda data, _: pretrained._read_adapter(data), [ADAPTER], "json"),
    Case("oam.proofs.read_proof", check_log, [plain(PROOF)], "json"),
    Case("oam.proofs.proof_report", check_report, [base64.b64decode(PROOF.report)], "msgpack"),
    # enrolment and certificates
    Case("node.enrolment.parse_token", token_text(enrolment.parse_token), [JOIN_TOKEN.encode(), JOIN_BODY]),
    Case(
        "node.enrolment._post",
        lambda data, _: read_answer_of_enrolment(data),
        [plain(enrolment.RefusalAnswer(reason="used", what="w")), plain(ENROLLED)],
        "json",
    ),
    Case(
        "node.enrolment_server.EnrolmentServer._answer",
        answer_enrolment,
        [plain(enrolment.EnrolRequest(token="daitn1.x", csr=CSR.decode(), name="one"))],
        "json",
    ),
    Case(
        "node.enrolment.load_membership",
        in_file("membership.json", lambda path: enrolment.load_membership(path.parent)),
        [plain(MEMBERSHIP)],
        "json",
    ),
    Case("node.pki._request_key", lambda data, _: pki.request_key_hash(data), [CSR]),
    Case("node.pki._load_certificate", lambda data, _: pki.common_name_of(data), [AUTHORITY.certificate_pem]),
    Case("node.pki._load_key", lambda data, _: pki.make_request("one", data), [NODE_KEY]),
    Case("node.pki.load_authority", in_file("authority.crt", authority_of), [AUTHORITY.certificate_pem]),
    # owners
    Case("node.http.owner_token.parse_owner_token", token_text(parse_owner_token), [OWNER_TOKEN.encode(), OWNER_BODY]),
    Case(
        "node.http.api._read",
        read_body(bodies.ChunksAsked),
        [plain(bodies.ChunksAsked(chunks=(("a" * 64, 5),)))],
        "json",
    ),
    Case("node.http.api._patched", patch_request, [plain({"deadline_s": 5, "budget": {"visits": 3}})], "json"),
    Case(
        "sdk.transport._error_of",
        lambda data, _: transport._error_of(503, data, as_text(data[:9])),
        [plain(bodies.Problem(error=bodies.ErrorBody(kind="input", what="w")))],
        "json",
    ),
    Case("sdk.network._read_token", in_file("token", sdk_network._read_token), [OWNER_TOKEN.encode()]),
    Case("sdk.jobs.read_event", lambda data, _: jobs.read_event("status", data), [STATUS], "json"),
    Case("sdk.jobs.read_event (error)", lambda data, _: jobs.read_event("error", data), [PROBLEM], "json"),
    Case("base.units.parse_bytes", lambda data, _: parse_bytes(as_text(data)), [b"10GB", b"1.5 TiB", b"4096"]),
    Case(
        "descriptors.compression.parse_compression",
        lambda data, _: parse_compression(as_text(data)),
        [b"8-bit", b"top-k=0.05"],
    ),
    Case("descriptors.privacy.parse_privacy", lambda data, _: parse_privacy(as_text(data)), [b"epsilon=2,clip=1"]),
    Case("descriptors.request.parse_target", lambda data, _: parse_target(as_text(data)), [b"recall[a]@b >= 95%"]),
    Case(
        "sdk.query_ways.decode_way",
        lambda data, _: query_ways.decode_way(data),
        [b'{"query":"a-1","took_ms":1.0,"outcome":"answered","steps":[]}'],
    ),
    Case(
        "node.serving.outcome_book.decode_feedback",
        lambda data, _: decode_feedback(data),
        [b'{"right":[0,2],"field":"north"}'],
        "json",
    ),
    Case("sdk.gateway_calls.decode_said", lambda data, _: gateway_calls.decode_said(data), [b'{"query":"a"}'], "json"),
    Case(
        "descriptors.destinations.parse_destination",
        lambda data, _: parse_destination(as_text(data)),
        [b"https://example.org:8443/hook?x=1", b"http://[::1]:80/"],
        "text",
    ),
    Case(
        "descriptors.destinations.parse_networks",
        lambda data, _: parse_networks(as_text(data).split(",")),
        [b"10.1.0.0/16,fd00::/8"],
        "text",
    ),
    Case(
        "serving.webhook_signing.verify_webhook",
        lambda data, _: verify_webhook("q", as_text(data[:12]), as_text(data), data, SIGNER, 1e9),
        [b"v1a," + base64.b64encode(bytes(64))],
        "text",
    ),
    Case(
        "serving.webhook_signing.verify_webhook (key)",
        lambda data, _: verify_webhook("q", "1000000000", "v1a,AAAA", data, as_text(data), 1e9),
        [SIGNER.encode()],
        "text",
    ),
    Case(
        "wire.secret_queries.decode_secret_text_query",
        lambda data, _: secret_queries.decode_secret_text_query(data),
        [msgspec.msgpack.encode(SECRET_TEXT)],
        "msgpack",
    ),
    Case(
        "wire.secret_queries.decode_text",
        lambda data, _: secret_queries.decode_text(data),
        [
            msgspec.msgpack.encode(secret_queries.SecretText(asked=Generation(prompt="tell"))),
            msgspec.msgpack.encode(secret_queries.SecretText(asked=TextBatch(task="embed", texts=("tell",)))),
        ],
        "msgpack",
    ),
    Case(
        "wire.secret_queries.decode_piece",
        lambda data, _: secret_queries.decode_piece(data),
        [
            msgspec.msgpack.encode(secret_queries.SecretPiece(at=3, tokens=(1,), text="a", end="stop")),
            msgspec.msgpack.encode(secret_queries.SecretPiece(at=0, values=TENSOR, labels=("no",))),
        ],
        "msgpack",
    ),
    Case(
        "wire.secret_queries.decode_secret_query",
        lambda data, _: secret_queries.decode_secret_query(data),
        [msgspec.msgpack.encode(SECRET_QUERY)],
        "msgpack",
    ),
    Case(
        "wire.secret_queries.decode_keys",
        lambda data, _: secret_queries.decode_keys(data),
        [
            msgspec.msgpack.encode(secret_queries.KeysTold(artifact=ArtifactId("a" * 64), authority="x")),
            msgspec.msgpack.encode(
                secret_queries.KeysTold(
                    artifact=ArtifactId(""),
                    authority="x",
                    combined=secret_queries.CombinedTold(
                        step=Cascade(
                            steps=(ModelStep(model=ModelName("a")), ModelStep(model=ModelName("b"))), output="p"
                        ),
                        parts=(secret_queries.PartTold(model=ModelName("a"), accuracy=0.5),),
                    ),
                )
            ),
        ],
        "msgpack",
    ),
    Case(
        "wire.secret_queries.decode_content",
        lambda data, _: secret_queries.decode_content(data),
        [msgspec.msgpack.encode(secret_queries.SecretContent(inputs=()))],
        "msgpack",
    ),
    Case(
        "wire.secret_queries.decode_outcome",
        lambda data, _: secret_queries.decode_outcome(data),
        [msgspec.msgpack.encode(secret_queries.SecretOutcome(fault="no"))],
        "msgpack",
    ),
    Case(
        "wire.handed.decode_handed",
        lambda data, _: handed.decode_handed(data),
        [
            msgspec.msgpack.encode(
                handed.AnswerHanded(
                    query="later-1", owner="a", model="m", status=200, told={"a": "b"}, kind="a/b", bytes=3, kept_s=9.0
                )
            )
        ],
        "msgpack",
    ),
    Case(
        "wire.handed.decode_handed_said",
        lambda data, _: handed.decode_handed_said(data),
        [msgspec.msgpack.encode(handed.HandedSaid(taken=False, what="full"))],
        "msgpack",
    ),
    Case(
        "wire.answers.decode_to_host",
        lambda data, _: answers.decode_to_host(data),
        [answers.join_frames([answers.encode_frame(one) for one in TO_HOST])],
        "msgpack",
    ),
    Case(
        "wire.answers.decode_from_host",
        lambda data, _: answers.decode_from_host(data),
        [answers.join_frames([answers.encode_frame(one) for one in FROM_HOST])],
        "msgpack",
    ),
    Case("serving.sealing.seal_query", seal_for, [POINT]),
    Case("node.serving.quick_door._read_head", lambda data, _: quick_door._read_head(data), [HEAD]),
    Case("node.serving.openai_protocol.decode_chat", lambda data, _: openai_protocol.decode_chat(data), [CHAT], "json"),
    Case(
        "node.serving.openai_protocol.decode_completion",
        lambda data, _: openai_protocol.decode_completion(data),
        [b'{"model":"m","prompt":"once","stop":["a"],"seed":3,"stream":true}'],
        "json",
    ),
    Case(
        "node.serving.openai_protocol.decode_embedding",
        lambda data, _: openai_protocol.decode_embedding(data),
        [b'{"model":"m","input":["a","b"],"encoding_format":"base64"}'],
        "json",
    ),
    Case("node.engines.text_server.decode_piece", lambda data, _: text_server.decode_piece(data), [PIECE], "json"),
    Case(
        "node.engines.text_server.decode_vectors",
        lambda data, _: text_server.decode_vectors(data, 1),
        [b'{"data":[{"index":0,"embedding":[1.0]}]}', b'{"data":[{"index":0,"embedding":"AACAPw=="}]}'],
        "json",
    ),
    Case(
        "node.engines.tensor_server.decode_extensions",
        lambda data, _: tensor_server.decode_extensions(data),
        [b'{"name":"s","extensions":["binary_tensor_data"]}', b'{"extensions":[]}'],
    ),
    Case(
        "node.engines.tensor_server.decode_described",
        lambda data, _: tensor_server.decode_described(data),
        [b'{"inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}]}'],
        "json",
    ),
    Case(
        "node.engines.tensor_server.decode_outputs",
        lambda data, _: tensor_server.decode_outputs(data, None),
        [b'{"outputs":[{"name":"y","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'],
        "json",
    ),
    Case(
        "node.engines.server_calls.read_key",
        in_file("key", lambda path: server_calls.read_key(str(path))),
        [b"sk-something"],
    ),
    Case(
        "node.serving.switching.read_outcomes",
        in_file("o.jsonl", switching.read_outcomes),
        [b'{"text":"a","cheap":true,"dear":false}'],
        "json",
    ),
    Case("node.site_files.load_pipelines", in_file("pipelines.toml", load_pipelines), [PIPELINES]),
    Case(
        "learning.text_models.read_tokenizer_settings",
        in_file("t.json", text_models.read_tokenizer_settings),
        [b'{"chat_template":"a","eos_token":{"content":"b"}}'],
        "json",
    ),
    Case(
        "learning.text_models.read_generation_settings",
        in_file("g.json", text_models.read_generation_settings),
        [b'{"eos_token_id":[1,2]}'],
        "json",
    ),
    Case(
        "node.sandbox.text_protocol.decode_text_order",
        lambda data, _: text_protocol.decode_text_order(data),
        [text_protocol.encode_text_frame(one)[5:] for one in TEXT_ORDERS],
        "msgpack",
    ),
    Case(
        "node.sandbox.text_protocol.decode_text_answer",
        lambda data, _: text_protocol.decode_text_answer(data),
        [text_protocol.encode_text_frame(one)[5:] for one in TEXT_ANSWERS],
        "msgpack",
    ),
    Case("node.site_files.load_offers", in_file("offers.toml", load_offers), [OFFERS]),
    Case(
        "node.serving.inference_protocol.decode_infer",
        lambda data, _: inference_protocol.decode_infer(data, None, {}),
        [INFER],
        "json",
    ),
    Case(
        "node.serving.inference_protocol.decode_infer (binary)",
        lambda data, _: inference_protocol.decode_infer(data, str(min(len(data), len(INFER_BINARY) - 8)), {}),
        [INFER_BINARY],
    ),
    Case(
        "node.serving.inference_protocol.decode_index",
        lambda data, _: inference_protocol.decode_index(data),
        [b'{"ready": true}'],
        "json",
    ),
    Case(
        "cli.access.host_policy",
        lambda data, _: host_policy([as_text(data)], [as_text(data)], [as_text(data)], "5MB"),
        [b"ab" * 32],
    ),
    Case("cli.access.parse_engine", lambda data, _: parse_engine(as_text(data)), [b"onnx-graph", b"torch-graph"]),
    Case("cli.access.parse_listen", lambda data, _: parse_listen(as_text(data)), [b"127.0.0.1:8600", b"[::1]:0"]),
    Case(
        "serving.tensors.array_of",
        lambda data, _: array_of(NamedTensor(name="x", datatype="FP32", shape=(2, 2), data=data)),
        [bytes(16)],
    ),
    Case(
        "descriptors.serving.parse_goal",
        lambda data, _: parse_goal(as_text(data)),
        [b"p95 <= 50 ms, recall[a]@b >= 95%, >= 2 replicas, <= 3 replicas, region north"],
    ),
    Case(
        "descriptors.question_text.parse_question",
        lambda data, _: parse_question(as_text(data)),
        [
            b"data where records >= 2k and not (terminal.trust < 0.8 or some data_field (field = 'a')) score records",
            b"summarise terminal by region count, quantile(0.9, flops) where within 20ms of (accelerators > 0) top 5",
        ],
    ),
    Case(
        "sdk.map_questions.read_question",
        lambda data, _: map_questions.read_question(as_text(data)),
        [b'{"ask":"find","kind":"terminal","where":{"is":"known","fact":"trust"}}'],
        "json",
    ),
    Case("sdk.requests.parse_targets", lambda data, _: requests.parse_targets(as_text(data)), [b"accuracy >= 0.9"]),
    Case(
        "sdk.requests.parse_duration", lambda data, _: requests.parse_duration(as_text(data)), [b"1h 30min", b"2 days"]
    ),
    Case(
        "cli.access.parse_window",
        lambda data, _: parse_window(as_text(data)),
        [b"2026-12-01T08:00Z for 10 min every 95 min", b"2026-12-01T08:00+01:00 for 2 days"],
    ),
    Case(
        "cli.access.parse_access",
        lambda data, _: parse_access(as_text(data), None, "5MB", ["2026-12-01T08:00Z for 10 min"]),
        [b"satellite", b"wireline"],
    ),
    Case("sdk.requests.parse_bytes", lambda data, _: requests.parse_bytes(as_text(data)), [b"1.5 GiB", b"20"]),
    Case(
        "sdk.requests.load_spec",
        in_file("request.toml", requests.load_spec),
        [b"deadline = '1h'\n[budget]\nvisits = 3\n"],
    ),
    Case("sdk.requests.read_contract", in_file("contract.json", requests.read_contract), [plain(CONTRACT)], "json"),
    Case(
        "sdk.requests.make_request",
        make_from_spec,
        [
            plain(
                {
                    "deadline": "1h",
                    "targets": ["accuracy >= 0.5"],
                    "budget": {"transfer_bytes": "2 MB"},
                    "data": ["a/b"],
                    "seed": 3,
                }
            )
        ],
        "json",
    ),
    # what people write and what lies in our own folders
    Case(
        "learning.base_files.read_config",
        in_file("config.json", lambda path: read_config(path.parent)),
        [plain({"hidden_size": 384, "model_type": "bert"})],
        "json",
    ),
    Case("node.activations.read_about", in_file("a.json", read_about), [plain(CACHED)], "json"),
    Case("describe.croissant.reading.read_croissant", croissant, [plain(CROISSANT)], "json"),
    Case("descriptors.contract.decode_contract", lambda data, _: decode_contract(data), [plain(CONTRACT)], "json"),
    Case("node.site_files.load_contract", in_file("contract.json", load_contract), [plain(CONTRACT)], "json"),
    Case("node.site_files.load_policy", in_file("policy.toml", load_policy), [policy_toml(make_policy()).encode()]),
    Case("node.site_files.load_column_map", in_file("map.toml", load_column_map), [MAP]),
    Case(
        "scenario.files.load_scenario",
        in_file("scenario.toml", load_beside_its_files),
        [(SCENARIOS / "three_hospitals.toml").read_bytes()],
    ),
    Case(
        "scenario.files._read",
        in_file("scenario.json", load_beside_its_files),
        [
            plain(
                {
                    "name": "s",
                    "nodes": [
                        {
                            "name": "a",
                            "operator": "a",
                            "roles": ["data"],
                            "data": [{"name": "d", "contract": "made-2", "policy": {"owners": ["x"]}}],
                        }
                    ],
                }
            )
        ],
        "json",
    ),
    Case("scenario.files._read_policy", scenario_with_policy, [policy_toml(make_policy()).encode()]),
    Case(
        "node.domain_folder.DomainFolder.load",
        in_file("domain.json", lambda path: DomainFolder(path.parent).load()),
        [plain(CONFIG)],
        "json",
    ),
    Case(
        "node.node_config.NodeFolder.load",
        in_file("node.json", lambda path: NodeFolder(path.parent).load()),
        [plain(NodeConfig(name="one", roles=(Role.DATA,)))],
        "json",
    ),
    Case("node.fabric.router.load_config", in_file("router.json", load_config), [encode_config(ROUTER)], "json"),
    Case("artifacts.signatures.load_key", in_file("key", signatures.load_key), [PEM]),
    Case("artifacts.signatures.public_key", lambda data, _: signatures.public_key(as_text(data)), [b"00" * 32]),
    Case("artifacts.tensor_file.read_header", read_tensors, [good_package_file("model.safetensors")]),
    Case("artifacts.package._read_index", package_with("manifest.json"), [good_package_file("manifest.json")], "json"),
    Case("artifacts.package.read_package", package_with("model.safetensors"), [good_package_file("model.safetensors")]),
    Case("node.journal.Journal._decode", journalled, [packed({"record": "Noted", "number": 1})], "msgpack"),
    Case("node.store.index.read_index", index_found_beside, [packed((PackedChunk("c" * 64, 0, 5),))], "msgpack"),
    Case("node.store.index.PackIndex.load", index_with, [packed((PackedChunk("c" * 64, 0, 5),))], "msgpack"),
    Case("node.datasets.DataShelf._entries", shelf_with("index.json", DataShelf.list), [SHELF_INDEX], "json"),
    Case("node.releases.ReleaseBook.ledger", shelf_with("ledger.jsonl", DataShelf.ledger), [plain(SPENT) + b"\n"]),
    Case(
        "node.releases.ReleaseBook._kept",
        shelf_with("releases/k.json", lambda shelf: shelf._releases._kept("k")),
        [plain({"key": "k", "epsilon": 1.0, "records": 1, "groups": 1, "labels": {}, "fields": {}, "shares": {}})],
        "json",
    ),
    Case(
        "describe.table.MappedTable.open", table_with("table.json"), [(GOOD_TABLE / "table.json").read_bytes()], "json"
    ),
    Case("describe.table._load", table_with("numbers.npy"), [(GOOD_TABLE / "numbers.npy").read_bytes()]),
    Case(
        "node.data_watch.read_sensed",
        in_file(SENSED, lambda path: read_sensed(path.parent)),
        [plain(Sensed(data=()))],
        "json",
    ),
    Case(
        "node.data_watch.ReleasedDynamics._load",
        in_file("dynamics.json", lambda path: ReleasedDynamics(path.parent).with_dynamics("d", make_data("s1/d"))),
        [b'{"releases":{"d":[{"at_ns":1,"records":5.0,"labels":{"a":5.0},"noise_std":1.0}]}}'],
        "json",
    ),
    Case(
        "oam.collection.read_counters",
        in_file(FILE, lambda path: read_counters(path.parent)),
        [plain(Counted(since_unix_s=1.0, counts=()))],
        "json",
    ),
    # what the demonstrations are given
    Case(
        "demo.medquad.data.core_foci",
        in_file("cardiology_foci.csv", lambda path: medquad.core_foci(path.parent)),
        [b"focus,tier\nHeart Failure,core\nStroke,broad\n"],
    ),
    Case("demo.medquad.data._rows", in_file("a.jsonl.gz", rows_of_institute), [gzip.compress(QUESTION + b"\n")]),
    Case(
        "demo.medquad.data.read_institute",
        lambda data, folder: in_file(f"{INSTITUTES[0].file}.jsonl.gz", read_first_institute)(
            gzip.compress(data), folder
        ),
        [QUESTION],
        "json",
    ),
    # data of hospitals
    Case("describe.conversion.parse_numbers", numbers_of, [b"1,5         -3e5        n/a         "]),
    Case("node.readers.csv.CsvReader._read_header", source("d.csv"), [written(readers.write_csv)]),
    Case(
        "node.readers.csv.CsvReader.read", source("d.csv.gz"), [written(lambda at: readers.write_csv(at, "d.csv.gz"))]
    ),
    Case("node.readers.jsonl.JsonLinesReader._rows", source("d.jsonl"), [written(readers.write_jsonl)]),
    Case("node.readers.parquet.ParquetReader.read", source("d.parquet"), [written(readers.write_parquet)]),
    Case("node.readers.parquet.ParquetReader.columns", source("p.parquet"), [written(readers.write_picture_parquet)]),
    Case("node.readers.arrow.ArrowReader._open", source("d.feather"), [written(readers.write_feather)]),
    Case("node.readers.arrow.ArrowReader.read", source("d.arrows"), [written(readers.write_stream)]),
    Case("node.readers.npz.NpzReader._load", source("d.npz"), [written(readers.write_npz)]),
    Case("node.readers.idx._unpack", idx_with, [IDX_IMAGES]),
    Case("node.readers.pictures.decode_picture", lambda data, _: decode_picture(data), [picture()]),
    Case("node.readers.sources._head", source("d.bin"), [IDX_IMAGES, b"PAR1"]),
]
"""Every decoder that is not driven elsewhere."""
