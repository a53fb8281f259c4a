"""The owner's program: a module becomes a signed package, travels to a domain, comes back, and predicts."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.owner_world import CONTRACT, Door, make_policy
from torch import nn

from daitn.artifacts.codec import decode_manifest, encode_manifest
from daitn.artifacts.layout import digest_of
from daitn.artifacts.package import read_package
from daitn.artifacts.signatures import public_hex
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.describe.column_map import ColumnMap, ColumnSource
from daitn.descriptors.contract import (
    CategoryColumn,
    CategoryInput,
    Classification,
    DataContract,
    ImageColumn,
    ImageInput,
    NumberColumn,
    NumbersInput,
    Regression,
    TextColumn,
    TokensInput,
)
from daitn.descriptors.job import Phase
from daitn.descriptors.request import Hyperparameters, Selection
from daitn.node.http.owner_token import parse_owner_token
from daitn.sdk.examples import example_inputs
from daitn.sdk.jobs import JobEndedError, JobRefusedError
from daitn.sdk.network import Network, Uploaded, connect
from daitn.sdk.packaging import chunks_of, load_module, package_from_chunks, package_module
from daitn.sdk.predict import predict
from daitn.sdk.requests import make_request, parse_bytes, parse_duration, parse_targets
from daitn.sdk.submission import submit_and_take
from daitn.sdk.transport import Transport

KEY = Ed25519PrivateKey.generate()
GOAL = {"targets": ["accuracy >= 95%"], "deadline": "10 min", "purpose": "diagnosis-support"}


def make_model(outputs: int = 2) -> nn.Module:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, outputs))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def package_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "lesions"
    package_module(make_model(), CONTRACT, folder, key=KEY, name="lesions")
    return folder


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with Door(tmp_path) as door:
        yield door


@pytest.fixture
def network(door: Door) -> Iterator[Network]:
    with connect(door.token(), patience_s=2.0) as network:
        yield network


# --- packages -------------------------------------------------------------------------------------------------------


def test_package_of_module_is_signed_and_knows_roles(package_dir: Path) -> None:
    manifest = read_package(package_dir).manifest
    roles = {entry.name: entry.role for entry in manifest.tensors}
    assert manifest.signer == public_hex(KEY)
    assert (roles["0.weight"], roles["3.weight"], roles["1.running_mean"]) == ("frozen", "parameter", "buffer")


def test_package_loaded_again_computes_the_same(package_dir: Path) -> None:
    model, loaded, inputs = make_model().eval(), load_module(package_dir), torch.randn(7, 2)
    assert torch.equal(loaded(features=inputs)["output"], model(inputs))


def test_package_from_its_chunks_is_the_same_artifact(package_dir: Path, tmp_path: Path) -> None:
    package = read_package(package_dir)
    chunks = {ref.id: data for ref, data in chunks_of(package)}
    assert set(chunks) == {ref.id for ref in package.manifest.all_chunks()}
    assert all(digest_of(data) == name for name, data in chunks.items())
    assert package_from_chunks(package.manifest, chunks.__getitem__, tmp_path / "again") == package.artifact


def test_package_from_a_wrong_chunk_is_refused_and_leaves_nothing(package_dir: Path, tmp_path: Path) -> None:
    manifest = read_package(package_dir).manifest
    with pytest.raises(PeerError, match="other bytes"):
        package_from_chunks(manifest, lambda _: b"evil", tmp_path / "again")
    assert list(tmp_path.iterdir()) == []


def test_package_of_module_with_other_argument_names_says_both(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, size: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
            return size + depth

    with pytest.raises(InputError, match=r"features.*size, depth"):
        package_module(Two(), CONTRACT, tmp_path / "p", key=KEY, name="two")


def test_example_has_the_shapes_and_ranges_of_the_contract() -> None:
    contract = DataContract(
        name="all",
        columns=(
            CategoryColumn(name="site", values=("arm", "leg")),
            ImageColumn(name="photo", channels=3, height=4, width=5),
            TextColumn(name="note"),
            NumberColumn(name="age"),
        ),
        inputs=(
            CategoryInput(name="site", column="site"),
            ImageInput(name="photo", column="photo"),
            TokensInput(name="note", column="note", length=6, mask="note_mask"),
        ),
        task=Regression(label="age"),
    )
    example = example_inputs(contract)
    shapes = {name: tuple(tensor.shape) for name, tensor in example.items()}
    assert shapes == {"site": (3,), "photo": (3, 3, 4, 5), "note": (3, 6), "note_mask": (3, 6)}
    assert int(example["site"].max()) <= 2
    assert int(example["note_mask"].max()) <= 1


# --- predictions ----------------------------------------------------------------------------------------------------


def test_predict_file_gives_label_probability_and_truth_per_row(package_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("size,depth,diagnosis\n12,4,benign\n30,,malignant\n", encoding="utf-8")
    first, second = predict(package_dir, tmp_path / "new.csv")
    features = torch.tensor([[(12 - 10) / 4, (4 - 5) / 2], [(30 - 10) / 4, 0.0]])
    chances = torch.softmax(make_model().eval()(features).double(), 1)
    for prediction, chance in zip((first, second), chances, strict=True):
        assert prediction.label == ("benign", "malignant")[int(chance.argmax())]
        assert prediction.probability == pytest.approx(float(chance.detach().max()), abs=1e-5)
    assert [(one.row, one.truth) for one in (first, second)] == [(1, "benign"), (2, "malignant")]


def test_predict_without_label_column_or_with_other_names(package_dir: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "new.npz", groesse=np.array([1.2, 3.0]), depth=np.array([4.0, 5.0]))
    renamed = ColumnMap(columns={"size": ColumnSource(column="groesse", multiply=10.0)})
    mapped = list(predict(package_dir, tmp_path / "new.npz", renamed))
    plain = list(predict(package_dir, {"size": [12.0, 30.0], "depth": [4.0, 5.0]}))
    assert mapped == plain
    assert all(one.truth == "" for one in mapped)


def test_predict_more_rows_than_a_batch_keeps_their_order(package_dir: Path) -> None:
    sizes = np.linspace(0, 40, 1000)
    rows = list(predict(package_dir, {"size": sizes, "depth": np.full(1000, 5.0)}))
    alone = next(predict(package_dir, {"size": sizes[777:778], "depth": [5.0]}))
    assert [one.row for one in rows] == list(range(1, 1001))
    assert rows[777].probability == pytest.approx(alone.probability)


def test_predict_missing_column_says_which_is_near(package_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("sizes,depth\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"no column 'size'.*sizes"):
        list(predict(package_dir, tmp_path / "new.csv"))


def test_predict_row_without_image_keeps_its_place_with_a_reason(tmp_path: Path) -> None:
    contract = DataContract(
        name="photos",
        columns=(
            ImageColumn(name="photo", channels=1, height=2, width=2),
            CategoryColumn(name="diagnosis", values=("benign", "malignant")),
        ),
        inputs=(ImageInput(name="photo", column="photo"),),
        task=Classification(label="diagnosis"),
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    package_module(model, contract, tmp_path / "p", key=KEY, name="photos")
    good = np.zeros((2, 2), dtype=np.uint8)
    rows = list(predict(tmp_path / "p", {"photo": [good, None, np.zeros((3, 3), dtype=np.uint8), good]}))
    assert [bool(one.label) for one in rows] == [True, False, False, True]
    assert [one.fault for one in rows] == ["", "photo: missing", "photo: wrong size", ""]


def test_predict_regression_is_in_the_labels_unit(tmp_path: Path) -> None:
    contract = DataContract(
        name="ages",
        columns=(NumberColumn(name="size"), NumberColumn(name="depth"), NumberColumn(name="age", unit="years")),
        inputs=(NumbersInput(name="features", columns=("size", "depth")),),
        task=Regression(label="age", center=50.0, scale=10.0),
    )
    model = make_model(outputs=1)
    package_module(model, contract, tmp_path / "p", key=KEY, name="ages")
    (one,) = predict(tmp_path / "p", {"size": [1.0], "depth": [2.0]})
    expected = float(model.eval()(torch.tensor([[1.0, 2.0]])).detach()) * 10 + 50
    assert one.value == pytest.approx(expected, abs=1e-4)


# --- requests as people write them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        (90, 90),
        ("1h 30min", 5400),
        ("2 days", 172_800),
        (datetime.timedelta(minutes=3), 180),
        ("0.5 h", 1800),
    ],
)
def test_duration_reads(text: str | int | datetime.timedelta, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "3 parsecs", "1h and more", "-3 s"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="length of time"):
        parse_duration(text)


def test_bytes_and_targets_read() -> None:
    assert (parse_bytes("2 MB"), parse_bytes("1.5 GiB"), parse_bytes(7)) == (2_000_000, 1_610_612_736, 7)
    assert [str(one) for one in parse_targets(["accuracy >= 95%", "loss <= 0.4"])] == [
        "accuracy >= 0.95",
        "loss <= 0.4",
    ]
    with pytest.raises(InputError, match=r"good.*better"):
        parse_targets(["be good", "be better"])


def test_request_out_of_range_says_where() -> None:
    with pytest.raises(InputError, match="learning_rate"):
        make_request("a" * 64, name="x", **GOAL, hyperparameters={"learning_rate": -1})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="colour"):
        make_request("a" * 64, name="x", **GOAL, colour="red")  # type: ignore[arg-type]


# --- with a domain --------------------------------------------------------------------------------------------------


def test_train_module_to_result(door: Door, network: Network, tmp_path: Path) -> None:
    job = network.train(make_model(), contract=CONTRACT, key=KEY, name="lesions", **GOAL)  # type: ignore[arg-type]
    seen = list(job.watch())
    assert seen[-1].phase is Phase.DELIVERED
    result = job.result(tmp_path / "result")
    assert result.met
    assert result.targets[0].untrained == pytest.approx(0.55)
    inputs = torch.randn(4, 2)
    assert torch.equal(result.model()(features=inputs)["output"], make_model().eval()(inputs))
    assert len(result.predict({"size": [1.0, 2.0], "depth": [3.0, 4.0]})) == 2
    checks = job.check_proofs()
    assert len(checks) >= 4
    assert all(check.holds for check in checks)
    assert [entry.number for entry in job.log()] == list(range(len(job.log())))
    assert [status.job for status in network.jobs()] == [job.id]


def test_upload_sends_only_what_is_missing(door: Door, network: Network, package_dir: Path) -> None:
    first: list[Uploaded] = []
    second: list[Uploaded] = []
    assert network.upload(package_dir, first.append) == network.upload(package_dir, second.append)
    assert first[-1].sent_bytes == first[-1].total_bytes == first[-1].package_bytes
    assert second == [Uploaded(0, 0, first[-1].package_bytes)]


def test_train_package_directory_twice_with_one_key_is_one_job(door: Door, network: Network, package_dir: Path) -> None:
    jobs = [network.train(package_dir, **GOAL, idempotency_key="once") for _ in range(2)]  # type: ignore[arg-type]
    assert jobs[0].id == jobs[1].id


def test_refused_job_raises_with_all_reasons_only_when_asked_for_its_result(tmp_path: Path, package_dir: Path) -> None:
    with Door(tmp_path, policy=make_policy(purposes=("billing",))) as door, connect(door.token()) as network:
        job = network.train(package_dir, **GOAL)  # type: ignore[arg-type]
        assert job.wait(10).phase is Phase.REFUSED
        with pytest.raises(JobRefusedError) as caught:
            job.result()
        assert caught.value.verdict is not None
        for condition in caught.value.verdict.failed():
            assert condition.what in str(caught.value)
        assert job.counter_offer is None
        with pytest.raises(InputError, match="no counter-offer"):
            job.take_counter_offer()


def test_counter_offer_is_taken_and_admitted_once(door: Door, network: Network, package_dir: Path) -> None:
    job = network.train(package_dir, **GOAL | {"deadline": 0.05})  # type: ignore[arg-type]
    assert job.wait(10).phase is Phase.REFUSED
    assert job.counter_offer is not None
    taken = job.take_counter_offer()
    assert taken.id == job.take_counter_offer().id != job.id
    assert taken.wait(10).phase is Phase.DELIVERED


def test_steering_a_job(tmp_path: Path, package_dir: Path) -> None:
    with Door(tmp_path, hold=True) as door, connect(door.token()) as network:
        job = network.train(package_dir, **GOAL, data=Selection(exclude=("h2/lesions",)))  # type: ignore[arg-type]
        door.answer_until(lambda: door.service.status("alice", job.id).phase is Phase.RUNNING)  # type: ignore[arg-type]
        assert job.pause().phase is Phase.PAUSED
        changed = job.change(deadline="1h", hyperparameters=Hyperparameters(batch_size=8)).request
        assert (changed.deadline_s, changed.hyperparameters.batch_size) == (3600.0, 8)
        assert changed.data.exclude == ("h2/lesions",)
        assert job.resume().phase is Phase.RUNNING
        with pytest.raises(UnavailableError, match="not ended within"):
            job.wait(0.1)
        assert job.cancel().phase is Phase.CANCELLED
        with pytest.raises(JobEndedError, match="cancelled"):
            job.result()


def test_watch_comes_back_by_itself_after_the_server_restarts(tmp_path: Path, package_dir: Path) -> None:
    with Door(tmp_path, hold=True) as door, connect(door.token()) as network:
        job = network.train(package_dir, **GOAL)  # type: ignore[arg-type]
        watching = job.watch()
        first = next(watching)
        door.restart()
        door.answer_until(lambda: door.service.status("alice", job.id).ended_unix_s is not None)  # type: ignore[arg-type]
        rest = list(watching)
        assert rest[-1].phase is Phase.DELIVERED
        assert all(status.log_length >= first.log_length for status in rest)


def test_connect_to_another_authority_is_refused_before_the_secret_is_shown(door: Door) -> None:
    other = msgspec.structs.replace(parse_owner_token(door.token()), fingerprint=bytes(32))
    with pytest.raises(PolicyError, match="another fingerprint"):
        Network(Transport(other)).jobs()


def test_connect_to_nobody_is_unavailable(door: Door) -> None:
    nobody = msgspec.structs.replace(parse_owner_token(door.token()), address="127.0.0.1:9")
    with pytest.raises(UnavailableError, match="does not answer"):
        Network(Transport(nobody, patience_s=0.2)).jobs()


def test_connect_reads_token_from_file_and_environment(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text(door.token() + "\n", encoding="ascii")
    assert connect(path).jobs() == ()
    monkeypatch.setenv("DAITN_TOKEN", str(path))
    assert connect().domain == "clinic"
    monkeypatch.delenv("DAITN_TOKEN")
    with pytest.raises(InputError, match="no token"):
        connect()
    with pytest.raises(InputError) as caught:
        connect("daitn-ovner1.secretsecret")
    assert "secretsecret" not in str(caught.value)


def test_operators_calls(door: Door) -> None:
    with connect(door.token("ops", "operate")) as network:
        assert network.make_join_token("st-mary", ["data"]).startswith("daitn-join1")
        assert connect(network.make_owner_token("bob")).jobs() == ()
        identity = next(one.id for one in network.owner_tokens() if one.owner == "bob")
        assert network.revoke_owner_token(identity).revoked_unix_s is not None
        network.expel("n-h1", "lost its key")
        assert door.service.expelled == [("n-h1", "lost its key")]
        assert len(network.nodes()) == 3
        with pytest.raises(InputError, match="no such role"):
            network.make_join_token("st-mary", ["datum"])


def test_package_changed_on_disk_is_refused_here(network: Network, package_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package_dir, copy)
    (copy / "graph.bin").write_bytes(b"\x80\x04evil")
    with pytest.raises(InputError, match=r"graph\.bin"):
        network.upload(copy)


def test_manifest_bytes_are_what_the_domain_stores(door: Door, network: Network, package_dir: Path) -> None:
    artifact = network.upload(package_dir)
    assert door.service.manifests[artifact] == encode_manifest(read_package(package_dir).manifest)


# --- the catalogue --------------------------------------------------------------------------------------------------


def test_catalogue_is_declared_with_the_owner_s_signature(door: Door, network: Network, package_dir: Path) -> None:
    job = network.train(package_dir, **GOAL, catalogue=True, key=KEY)  # type: ignore[arg-type]
    manifests = [decode_manifest(door.service.manifests[one]) for one in job.status().request.variants]

    assert [one.name for one in manifests] == ["catalogue: perceptron", "catalogue: transformer"]
    assert {one.signer for one in manifests} == {public_hex(KEY)}


def test_catalogue_is_asked_after_a_refusal_and_twice_is_one_job(
    door: Door, network: Network, package_dir: Path
) -> None:
    door.service.overfits = False
    done = submit_and_take(network, {**GOAL, "model": package_dir, "key": KEY}, take=False, ask_catalogue=True)

    assert done.advised is not None, done.unasked
    assert done.status.phase is done.advised.phase is done.last.phase is Phase.REFUSED
    assert done.last.job == done.status.job
    advice = done.advised.verdict.advice  # type: ignore[union-attr]
    assert advice is not None
    assert [one.name for one in advice.tried] == ["catalogue: perceptron", "catalogue: transformer"]
    assert network.job(done.status.job).ask_catalogue(key=KEY).id == done.advised.job
    with pytest.raises(InputError, match="no further model"):
        network.job(done.advised.job).ask_catalogue(key=KEY)


def test_catalogue_is_not_asked_without_the_package_s_key_or_a_refusal_for_attainability(
    door: Door, network: Network, package_dir: Path
) -> None:
    job = network.train(package_dir, **GOAL)  # type: ignore[arg-type]
    job.assessed()
    with pytest.raises(InputError, match="was not refused for what its model reaches"):
        job.ask_catalogue(key=KEY)
    door.service.overfits = False
    done = submit_and_take(
        network,
        {**GOAL, "model": package_dir, "key": Ed25519PrivateKey.generate()},
        take=False,
        ask_catalogue=True,
    )
    assert done.advised is None
    assert "give the key that the package is signed with" in done.unasked
