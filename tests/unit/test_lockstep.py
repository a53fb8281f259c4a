"""Lock-step numerics: equal models bit for bit, the mean of all records, and how numbers that are not finite end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.meeting import Place, play

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from daitn.artifacts.manifest import Cursor  # noqa: E402
from daitn.base.ids import DataSetId  # noqa: E402
from daitn.learning.numerics.exchange import PartnerError  # noqa: E402
from daitn.learning.numerics.lockstep import GradientError, Lockstep, weighted_mean  # noqa: E402


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.b = nn.Linear(4, 1)
        self.wide = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.short = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        self.unused = nn.Parameter(torch.ones(5))
        generator = torch.Generator().manual_seed(3)  # the global one is shared by the members' threads
        with torch.no_grad():
            for parameter in (*self.a.parameters(), *self.b.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x: Any) -> Any:
        scale = self.wide.sum().float() * self.short.float().sum()
        return self.b(torch.tanh(self.norm(self.a(x)))) * scale


def steps(rank: int, place: Place, count: int = 5, records: tuple[int, ...] = (10, 30, 7), loss: Any = None) -> Any:
    """Some steps on data of its own; parameters and buffers afterwards."""
    net = Net()
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(rank))
    datasets = [DataSetId(f"s{number}/d") for number in range(place.members)]
    lockstep = Lockstep(place, records[rank], lambda: dict(net.named_buffers()), datasets)
    lockstep.begin()
    parameters = dict(net.named_parameters())
    for step in range(count):
        net.zero_grad(set_to_none=True)
        (net(data).square().mean() if loss is None else loss(net(data), rank)).backward()
        lockstep.average_gradients(parameters, step)
        with torch.no_grad():
            for parameter in parameters.values():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)
    cursors = lockstep.finish(Cursor(dataset=datasets[rank], epoch=rank, position=2))
    state = {name: tensor.clone() for name, tensor in (*parameters.items(), *net.named_buffers())}
    return state, cursors, parameters["unused"].grad


@pytest.mark.parametrize("members", [2, 3])
def test_members_end_with_equal_models_bit_for_bit_and_know_all_cursors(members):
    found = play(members, steps)

    first, cursors, unused = found[0]
    assert unused is None
    assert [(one.dataset, one.epoch) for one in cursors] == [(f"s{rank}/d", rank) for rank in range(members)]
    for state, other, _ in found[1:]:
        assert other == cursors
        assert all(torch.equal(first[name], state[name]) for name in first)
    assert not torch.equal(first["a.weight"], Net().a.weight)
    assert first["norm.num_batches_tracked"] == 5


def test_mean_gradient_is_that_of_all_records_weighted():
    def work(rank: int, place: Place) -> Any:
        parameter = nn.Parameter(torch.zeros(4))
        parameter.grad = torch.full((4,), float(rank + 1))
        lockstep = Lockstep(place, (30, 10)[rank], dict, ())
        lockstep.begin()
        lockstep.average_gradients({"p": parameter}, 0)
        return parameter.grad

    for grad in play(2, work):
        assert torch.allclose(grad, torch.full((4,), 1.25))


def test_gradient_that_only_one_member_has_counts_as_zero_at_the_other():
    def work(rank: int, place: Place) -> Any:
        parameter = nn.Parameter(torch.zeros(3))
        if rank == 0:
            parameter.grad = torch.ones(3)
        lockstep = Lockstep(place, 1, dict, ())
        lockstep.begin()
        lockstep.average_gradients({"p": parameter}, 0)
        return parameter.grad

    for grad in play(2, work):
        assert torch.equal(grad, torch.full((3,), 0.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_gradient_of_ours_that_is_not_finite_is_never_sent(value):
    found = play(2, lambda rank, place: steps(rank, place, loss=lambda out, r: out.mean() * (value if r else 1.0)))

    assert isinstance(found[1], GradientError)
    assert isinstance(found[0], PartnerError)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_partner_that_sends_numbers_that_are_not_finite_is_named(value):
    def tamper(rank: int, tag: str, mine: dict[str, Any]) -> dict[str, Any]:
        if rank == 1 and tag == "gradient/2":
            mine["float32"][3] = value
        return mine

    found = play(2, steps, tamper)

    assert isinstance(found[0], PartnerError)
    assert found[0].rank == 1
    assert "not finite" in found[0].what


@pytest.mark.parametrize("count", [0, -5, 2**60])
def test_partner_with_an_absurd_weight_is_named(count):
    def tamper(rank: int, tag: str, mine: dict[str, Any]) -> dict[str, Any]:
        if rank == 1 and tag == "begin":
            mine["records"][0] = count
        return mine

    found = play(2, steps, tamper)

    assert isinstance(found[0], PartnerError)
    assert found[0].rank == 1


def test_partner_with_an_absurd_cursor_is_named():
    def tamper(rank: int, tag: str, mine: dict[str, Any]) -> dict[str, Any]:
        if rank == 1 and tag == "end":
            mine["cursor"][:] = (-7, 3)
        return mine

    found = play(2, steps, tamper)

    assert isinstance(found[0], PartnerError)
    assert found[0].rank == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 200_000), st.sampled_from(["float32", "float64"]), st.integers(0, 2**32 - 1))
def test_weighted_mean_equals_the_plain_one_and_keeps_equal_values(members, size, dtype, seed):
    rng = np.random.default_rng(seed)
    views = [rng.normal(size=size).astype(dtype) for _ in range(members)]
    weights = rng.uniform(0.1, 5, size=members)
    weights = [float(one) for one in weights / weights.sum()]

    plain = sum(weight * view.astype(np.float64) for weight, view in zip(weights, views, strict=True))
    assert np.allclose(weighted_mean(views, weights), plain, rtol=1e-5, atol=1e-6)
    assert np.array_equal(weighted_mean([views[0]] * members, weights), views[0])
