"""Every decoder is driven with hostile bytes: the walk below finds them, the table says by which test."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.decoders import CASES

import daitn

ROOT = Path(daitn.__file__).parent
TESTS = Path(__file__).parent.parent

CALLS = re.compile(
    r"msgspec\.(json|msgpack|toml)\.decode|msgspec\.convert|tomllib\.loads?|json\.loads?|base64\.\w*decode|b64decode"
    r"|bytes\.fromhex|x509\.load_\w+|serialization\.load_\w+|zipfile\.ZipFile|np\.(load|frombuffer)|Image\.open"
    r"|gzip\.open|struct\.unpack\w*|numpy_format\.\w+|npy\.\w+|(feather|parquet|ipc|pyarrow|csv)\.(\w+\.)*"
    r"(open\w*|read\w*|DictReader|ParquetFile|CSVStreamingReader)|(\w+\.)*load_file|(\w+\.)?Tokenizer\.from_\w+"
    r"|(\w+\.)?\w+(Public|Private)Key\.from_\w+"
)
"""Calls that turn bytes into values."""

NAMES = re.compile(r"(decode|parse|load|read)(_\w+)?|_(decode|parse|read)_\w+")
"""Functions that say of themselves that they do."""


def decoders_in(path: Path) -> Iterator[str]:
    """Functions and methods of one file that decode something, as `module.function`."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    tree = ast.parse(path.read_text())
    made = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and re.search(r"Decoder|struct\.Struct", ast.unparse(node.value.func))
    }
    for name, function in functions_of(tree):
        called = {ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
        uses = any(CALLS.fullmatch(call) for call in called)
        uses |= any(call in {f"{one}.{verb}" for one in made for verb in ("decode", "unpack")} for call in called)
        says = "." not in name and NAMES.fullmatch(name) is not None
        if uses or says:
            yield f"{module}.{name}"


def functions_of(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Functions of a module and methods of its classes, by name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield f"{node.name}.{inner.name}", inner


FOUND = sorted(name for path in ROOT.rglob("*.py") for name in decoders_in(path))

ELSEWHERE = {
    "artifacts.codec.decode_manifest": "property/test_manifest_hostile.py",
    "artifacts.tokens._to_bytes": "property/test_manifest_hostile.py",
    "artifacts.tokens.read_token": "property/test_manifest_hostile.py",
    "artifacts.grants._read": "property/test_manifest_hostile.py",
    "artifacts.itineraries._read": "property/test_manifest_hostile.py",
    "artifacts.tensor_file.parse_header": "property/test_manifest_hostile.py",
    "artifacts.graph._length": "property/test_graph_hostile.py",
    "artifacts.graph.decode_graph_pair": "property/test_graph_hostile.py",
    "wire.codec.decode": "property/test_wire_hostile.py",
    "wire.codec.decode_all": "property/test_wire_hostile.py",
    "node.sandbox.exchanging._Inbox._open": "unit/test_exchange.py",
    "wire.data_plane.decode_hello": "property/test_wire_hostile.py",
    "wire.data_plane.decode_page": "property/test_wire_hostile.py",
    "wire.data_plane.decode_wanted": "property/test_wire_hostile.py",
}
"""Decoders with a suite of their own, which names them."""

THROUGH = {
    "artifacts.package._read_part": "artifacts.package.read_package",
    "artifacts.package._read_tensors": "artifacts.package.read_package",
    "describe.conversion._parse_one": "describe.conversion.parse_numbers",
    "learning.pretrained._read_config": "learning.bases.FrozenBase",
    "learning.records._parse_tokenizer": "learning.tokenizer_file.open_tokenizer",
    "learning.tokenizer_file.read_tokenizer": "learning.tokenizer_file.decode_tokens",
    "node.fabric.router._decode_path": "node.fabric.router.load_config",
    "node.readers.idx._read_header": "node.readers.idx._unpack",
    "artifacts.signatures._verify": "oam.proofs.read_proof",
    "artifacts.signatures.load_or_create_key": "artifacts.signatures.load_key",
    "describe.croissant.conditions._Reader._own": "describe.croissant.reading.read_croissant",
    "describe.croissant.conditions.policy_of": "describe.croissant.reading.read_croissant",
    "describe.croissant.reading._decode": "describe.croissant.reading.read_croissant",
    "describe.croissant.reading._image": "describe.croissant.reading.read_croissant",
    "describe.conversion.convert_texts": "describe.conversion.parse_numbers",
    "node.readers.idx._Open.take": "node.readers.idx._unpack",
    "node.readers.npz._check_header": "node.readers.npz.NpzReader._load",
    "node.site_files._convert_keys": "node.site_files.load_policy",
    "node.site_files._read_toml": "node.site_files.load_policy",
    "oam.proofs.report_bytes": "oam.proofs.proof_report",
    "learning.text_models._read": "learning.text_models.read_tokenizer_settings",
    "scenario.files._convert": "scenario.files._read",
    "scenario.files._convert_fields": "scenario.files._read",
    "descriptors.question_lexing.read_tokens": "descriptors.question_text.parse_question",
    "serving.sealing._seal": "serving.sealing.seal_query",
    "sdk.transport.Transport.call": "sdk.jobs.read_event",
}
"""Parts of decoders, and what they are driven through (of the last: the same two lines, behind a connection)."""

NO_BYTES_OF_OTHERS = {
    "cli.limits._changed": "options of a command that an operator gives at the domain's own folder",
    "descriptors.job_limits.parse_priorities": "options of a command that an operator gives at the domain's own folder",
    "artifacts.itineraries.content_of": "bytes encoded here, of a value that was decoded already",
    "artifacts.operators._read_table": "a table of our own",
    "demo.hospitals.data.load_source": "data that come with scikit-learn",
    "demo.hospitals.serving._post": "the answer of the demonstration's own gateway",
    "demo.medquad.play.Play._encode": "what our own command printed",
    "demo.recording.dataset_of": "the log of the demonstration's own centre",
    "learning.masking.round_keys.mask_private": "a number of the field, of which each is a key",
    "node.exchanges._read_out": "nothing is made of what comes",
    "node.http.tokens._read_scopes": "words, each looked up in a closed list",
    "node.http.tokens._terms_of": "a book that only its own process writes",
    "sdk.predict._read_outputs": "tensors of a model that was run here",
    "simulation.world.World.__init__": "keys made here",
    "describe.family.features._signs": "a digest made here",
    "describe.mechanisms.load_opendp": "imports a library",
    "learning.masking.ring.add_stream": "a key stream made here",
    "learning.numerics.blocks.tensor_view": "tensors of a checked manifest, in a store that hashed them",
    "node.croissant_files.check_document": "a document made here",
    "learning.pretrained._describe_adapter": "an object of the owner's own program",
    "learning.pretrained._describe_config": "an object of the owner's own program",
    "learning.tasks.retrieval._digests": "digests made here",
    "node.enrolment_server.EnrolmentServer.make_token": "the authority's own fingerprint",
    "node.fabric.chunks.read_chunk": "a chunk of the own store, checked by who receives it",
    "node.fabric.tls.Link.receive_header": "five bytes of fixed form; what they say is bounded where it is used",
    "node.http.tokens.TokenBook.__init__": "the authority's own fingerprint",
    "node.processes.LocalDomain.run": "what our own command printed",
    "node.sandbox.confine.confine": "what the node's own launcher passes",
    "node.sandbox.launcher.Sandbox._probe_rights": "what our own probe answers",
    "node.sandbox.launcher._read_leader": "what the tether, our own program, tells",
    "node.sandbox.tether._read_leader": "what bubblewrap tells",
    "node.sandbox.probe.main": "what the node's own launcher asks",
    "node.sandbox.work.Worker._map_records": "tensors of the node's own store, checked by `records_from_tensors`",
    "node.slot_book.SqliteSlotBook.redeem": "rows of the own database",
    "node.slot_book._slot": "rows of the own database",
    "node.serving.later_store._read": "rows of the own database",
    "node.store.files.read_all": "bytes, not values",
    "node.store.receipt.Receipt._note": "digests of the own manifest",
    "node.store.tensors.TensorMap.array": "tensors of an artifact that was verified when it came",
    "node.supervisor.Processes._ready_line": "what our own process printed; anything else is passed over",
    "serving.simulated.values_of": "a digest made here",
    "sdk.network.Network._upload": "the answer of a server that its certificate proved",
    "sdk.packaging.load_module": "a package that `read_package` checked; its parts are decoded by decoders listed here",
}
"""What looks like a decoder and is none, or gets only bytes that this process or its parent made: why."""


def test_walk_finds_decoders():
    assert {"wire.codec.decode", "node.fabric.chunks.decode_refusal", "node.http.api._read"} < set(FOUND)
    assert len(FOUND) > 60


@pytest.mark.parametrize("name", FOUND)
def test_decoder_is_driven_with_hostile_bytes(name):
    driven = {case.name.partition(" ")[0] for case in CASES}
    ways = [name in known for known in (driven, ELSEWHERE, THROUGH, NO_BYTES_OF_OTHERS)]
    assert any(ways), f"{name} decodes bytes: add a case to tests/decoders.py"
    assert sum(ways) == 1, f"{name} is listed twice"


@pytest.mark.parametrize(("name", "file"), ELSEWHERE.items())
def test_suite_of_its_own_names_the_decoder(name, file):
    if "._" not in name:
        assert name.rpartition(".")[2] in (TESTS / file).read_text()


def test_lists_hold_nothing_that_is_gone():
    cases = {case.name.partition(" ")[0] for case in CASES}
    assert set(THROUGH.values()) <= cases
    assert set(ELSEWHERE) | set(THROUGH) | set(NO_BYTES_OF_OTHERS) <= set(FOUND)
    for name in cases:
        *path, last = name.split(".")
        assert any(hasattr_path(".".join(path[:end]), [*path[end:], last]) for end in range(len(path), 0, -1)), name


def hasattr_path(module, attributes):
    """Whether a module of ours has these attributes, one inside the other."""
    if not (ROOT / f"{module.replace('.', '/')}.py").exists():
        return False
    found = importlib.import_module(f"daitn.{module}")
    for attribute in attributes:
        found = getattr(found, attribute, None)
    return found is not None


@pytest.mark.parametrize("path", list(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_decoders_catch_all_that_decoding_may_raise(path):
    caught = re.findall(r"except [^\n]*msgspec\.(?:Msgspec|Decode)Error", path.read_text())
    assert not caught, "text that is not UTF-8 and endless nesting raise others: catch base.decoding.UNDECODABLE"
