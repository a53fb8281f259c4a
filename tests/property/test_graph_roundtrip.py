"""A rebuilt graph is the owner's module: it trains with the same bits, for every batch size.

Modules are drawn from the layers owners use. Each is exported once with open batch (and length), sent through bytes,
rebuilt, and trained beside the eager module on the same batches with the same random numbers; outputs, gradients,
parameters and buffers have to be equal bit for bit (paper, section III: the model follows the data unchanged).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from daitn.artifacts.graph import decode_graph_pair, encode_graph_pair
from daitn.artifacts.graph_schema import GraphPair
from daitn.base.errors import InputError, PeerError
from daitn.learning.graphs.export import export_pair
from daitn.learning.graphs.rebuild import RebuiltModule, rebuild

ROWS = 20
WIDTH = 8


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- layers that keep (batch, length, WIDTH) -------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int) -> None:
        super().__init__()
        self.layer = kind(WIDTH, WIDTH, num_layers=layers, dropout=0.2 if layers > 1 else 0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0]


class Attention(nn.Module):
    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.weights = weights
        self.layer = nn.MultiheadAttention(WIDTH, 2, dropout=0.1, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x, x, x, need_weights=self.weights)[0]


class Channels(nn.Module):
    """A layer that wants channels before length."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Image(nn.Module):
    """The sequence as an image of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layer(x.unsqueeze(1)).squeeze(1)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()),
    "conv1d": lambda: Channels(nn.Conv1d(WIDTH, WIDTH, 3, padding=1)),
    "conv2d": Image,
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "batch norm": lambda: Channels(nn.BatchNorm1d(WIDTH)),
    "dropout": lambda: nn.Dropout(0.3),
    "attention": lambda: Attention(weights=True),
    "fused attention": lambda: Attention(weights=False),
    "lstm": lambda: Recurrent(nn.LSTM, 2),
    "gru": lambda: Recurrent(nn.GRU, 1),
}


class Drawn(nn.Module):
    """Embedding and bag of embeddings, some drawn layers, a head, and the loss in the graph."""

    def __init__(self, names: list[str], tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(ROWS, WIDTH, padding_idx=0)
        self.bag = nn.EmbeddingBag(ROWS, WIDTH, mode="mean")
        self.layers = nn.Sequential(*(LAYERS[name]() for name in names))
        self.head = nn.Linear(WIDTH, ROWS if tied else 3)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.layers(self.embedding(ids) + self.bag(ids).unsqueeze(1))
        logits = self.head(x.mean(1))
        return {"logits": logits, "loss": functional.cross_entropy(logits, label)}


def make_batch(rows: int, length: int, seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {
        "ids": torch.randint(0, ROWS, (rows, length), generator=random),
        "label": torch.randint(0, 3, (rows,), generator=random),
    }


DYNAMIC = {"ids": ("batch", "length"), "label": ("batch",)}


def travel(module: nn.Module, example: Mapping[str, torch.Tensor], dynamic: Mapping) -> RebuiltModule:
    pair, tensors = export_pair(module, example, dynamic)
    data = encode_graph_pair(pair)
    arrived = decode_graph_pair(data)
    assert arrived == pair
    assert encode_graph_pair(arrived) == data
    return rebuild(arrived, tensors)


def assert_trains_alike(eager: nn.Module, rebuilt: nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (eager, rebuilt)]
    for step, batch in enumerate(batches):
        outputs = []
        for module, optimizer in zip((eager, rebuilt), optimizers, strict=True):
            module.train()
            torch.manual_seed(step)
            result = module(**batch)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            outputs.append(result)
        for name in outputs[0]:
            assert torch.equal(outputs[0][name], outputs[1][name]), (step, name)
        ours = dict(rebuilt.named_parameters())
        for name, parameter in eager.named_parameters():
            assert (parameter.grad is None) == (ours[name].grad is None), name
            if parameter.grad is not None:
                assert torch.equal(parameter.grad, ours[name].grad), (step, name)
            assert torch.equal(parameter, ours[name]), (step, name)
    buffers = dict(rebuilt.named_buffers())
    for name, buffer in eager.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


def assert_evaluates_alike(eager: nn.Module, rebuilt: nn.Module, batch: dict[str, torch.Tensor]) -> None:
    eager.eval()
    rebuilt.eval()
    expected, got = eager(**batch), rebuilt(**batch)
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), (len(batch["ids"]), name)


@settings(max_examples=7, deadline=None, derandomize=True, database=None)
@given(
    names=st.lists(st.sampled_from(sorted(LAYERS)), min_size=2, max_size=3, unique=True),
    tied=st.booleans(),
    sizes=st.lists(st.tuples(st.integers(2, 31), st.integers(2, 9)), min_size=3, max_size=4),
    seed=st.integers(0, 1000),
)
def test_drawn_module_exported_and_rebuilt_trains_with_the_same_bits(names, tied, sizes, seed):
    torch.manual_seed(seed)
    eager = Drawn(names, tied)
    rebuilt = travel(eager, make_batch(3, 5, seed), DYNAMIC)
    assert [name for name, _ in rebuilt.named_parameters()] == [name for name, _ in eager.named_parameters()]
    assert_trains_alike(eager, rebuilt, [make_batch(rows, length, seed + i) for i, (rows, length) in enumerate(sizes)])
    assert_evaluates_alike(eager, rebuilt, make_batch(7, 4, seed))


def test_all_layers_together_batches_of_1_to_31_are_bit_equal():
    torch.manual_seed(0)
    eager = Drawn(list(LAYERS), tied=False)
    rebuilt = travel(eager, make_batch(3, 5, 0), DYNAMIC)
    sizes = [(rows, 2 + rows % 7) for rows in range(1, 32)]
    assert_trains_alike(eager, rebuilt, [make_batch(rows, length, rows) for rows, length in sizes])
    for rows, length in sizes:
        assert_evaluates_alike(eager, rebuilt, make_batch(rows, length, rows))


class Awkward(nn.Module):
    """Frozen and tied weights, a counter, a block without gradient, literal tensors, in-place and Einstein sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.scale = torch.arange(4.0)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            target = self.second(x)
        self.seen = self.seen + x.shape[0]
        y = self.first(x) * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0]) + self.frozen
        y = functional.relu(y, inplace=True)
        mask = torch.ones(x.shape[0], x.shape[0], dtype=torch.bool).tril()
        similar = torch.einsum("bi,ci->bc", y, target).masked_fill(~mask, 0.0)
        return {"loss": similar.sum() / (x.shape[0] * 2), "y": y}


def test_state_and_constants_outside_parameters_travel_and_train_alike():
    torch.manual_seed(0)
    eager = Awkward()
    rebuilt = travel(eager, {"x": torch.randn(3, 4)}, {"x": ("batch", None)})
    assert not rebuilt.get_parameter("frozen").requires_grad
    assert [(tie.alias, tie.name) for tie in rebuilt.pair.ties] == [("second.weight", "first.weight")]
    assert_trains_alike(eager, rebuilt, [{"x": torch.randn(rows, 4)} for rows in (1, 2, 5, 9)])
    assert rebuilt.get_buffer("seen").item() == 17


def test_export_leaves_the_module_its_mode_and_the_random_state_alone():
    module = Drawn(["batch norm", "dropout"], tied=False)
    module.layers[0].eval()
    modes = [part.training for part in module.modules()]
    state = copy.deepcopy(module.state_dict())
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    export_pair(module, make_batch(3, 5, 0), DYNAMIC)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), expected)


def test_graph_bytes_hold_nothing_of_the_owners_source():
    pair, _ = export_pair(Drawn(["linear"], tied=False), make_batch(3, 5, 0), DYNAMIC)
    data = encode_graph_pair(pair)
    for word in (b".py", b"/", b"Drawn", b"forward", b"cross_entropy(", b"test_graph"):
        assert word not in data.replace(b"\xa1/", b""), word


# --- what cannot be exported is explained with its place -------------------------------------------------------------


class BranchOnValue(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x


class BranchOnSize(nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[0] % 3 == 0 else x


class LoopOverLength(nn.Module):
    def forward(self, x):
        total = x[:, 0]
        for i in range(1, x.shape[1]):
            total = total + x[:, i]
        return total


class SizeFromValue(nn.Module):
    def forward(self, x):
        return torch.zeros(int(x.max().item()))


class Unlisted(nn.Module):
    def forward(self, x):
        return torch.linalg.svd(x)[1]


class PythonState(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (BranchOnValue(), "values of a tensor"),
        (SizeFromValue(), "values of a tensor"),
        (BranchOnSize(), "treats some sizes of 'batch' differently"),
        (LoopOverLength(), "cannot vary as 'length'"),
        (Unlisted(), "aten.linalg_svd.default"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_module_that_is_no_graph_is_refused_with_file_and_line(module, said):
    with pytest.raises(InputError, match=said) as caught:
        export_pair(module, {"x": torch.rand(3, 4)}, {"x": ("batch", "length")})
    assert "test_graph_roundtrip.py:" in caught.value.what
    assert caught.value.todo


def test_module_with_state_outside_its_tensors_is_refused_since_it_differs():
    with pytest.raises(InputError, match="does not compute what the module does"):
        export_pair(PythonState(), {"x": torch.rand(3, 4)}, {"x": ("batch", None)})


def test_example_of_one_row_is_refused_with_what_to_do():
    with pytest.raises(InputError, match="at least 2"):
        export_pair(nn.Linear(4, 2), {"input": torch.rand(1, 4)}, {"input": ("batch", None)})


# --- the rebuilt module guards its own door --------------------------------------------------------------------------


def linear_pair() -> tuple[GraphPair, dict[str, torch.Tensor]]:
    return export_pair(nn.Linear(4, 2), {"input": torch.rand(3, 4)}, {"input": ("batch", None)})


def test_rebuild_with_other_tensors_than_declared_is_a_peer_error():
    pair, tensors = linear_pair()
    with pytest.raises(PeerError, match="missing"):
        rebuild(pair, {"weight": tensors["weight"]})
    with pytest.raises(PeerError, match="declares float32"):
        rebuild(pair, tensors | {"bias": torch.zeros(3)})


def test_rebuilt_module_refuses_inputs_that_do_not_fit():
    model = rebuild(*linear_pair())
    with pytest.raises(InputError, match="takes the inputs"):
        model(x=torch.rand(2, 4))
    with pytest.raises(InputError, match="expected 4"):
        model(input=torch.rand(2, 5))
    with pytest.raises(InputError, match="float32"):
        model(input=torch.zeros(2, 4, dtype=torch.int64))
