"""Models in stages: cuts of a graph, where to cut, and what comes out."""

from __future__ import annotations

import itertools
import math

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from daitn.artifacts.graph import decode_graph_pair, encode_graph_pair
from daitn.artifacts.graph_schema import GraphPair
from daitn.artifacts.graph_stages import cut_stage, tensors_of_stage, weigh_profile
from daitn.base.errors import InputError
from daitn.base.ids import ModelName, NodeId
from daitn.decision.staging import QUERY_ROWS, FoundStage, NoCut, StageHost, cut_stages
from daitn.descriptors.stages import (
    Activation,
    CutPlace,
    GraphProfile,
    Stage,
    check_profile,
    check_stages,
)
from daitn.learning.graphs.export import export_pair
from daitn.learning.graphs.rebuild import rebuild
from daitn.learning.graphs.stages import profile_stages

DYNAMIC: dict[str, tuple[str | None, ...]] = {"ids": ("batch", "length"), "mask": ("batch", "length")}


class Block(nn.Module):
    """Attention and a dense layer, each with a way around."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.behind = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.wide, self.narrow = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        normed = self.before(x)
        scores = self.queries(normed) @ self.keys(normed).transpose(1, 2)
        shares = torch.softmax(scores - 1e4 * (1 - mask)[:, None, :], dim=-1)
        x = x + shares @ self.values(normed)
        made: Tensor = x + self.narrow(torch.nn.functional.relu(self.wide(self.behind(x)), inplace=True))
        return made


class Reader(nn.Module):
    """A small transformer, which reads its mask in every layer."""

    def __init__(self, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.table(ids)
        for block in self.blocks:
            x = block(x, mask)
        return {"logits": self.head(x.mean(dim=1)), "last": x[:, 0]}


def example(rows: int = 3, length: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return {
        "ids": torch.randint(0, 50, (rows, length), generator=generator),
        "mask": torch.rand((rows, length), generator=generator).round(),
    }


@pytest.fixture(scope="module")
def exported() -> tuple[GraphPair, dict[str, Tensor]]:
    return export_pair(Reader().eval(), example(), DYNAMIC)


def run(pair: GraphPair, tensors: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """A stage by itself, with its own tensors only, as a host would."""
    pair = decode_graph_pair(encode_graph_pair(pair))
    own = {name: tensors[name] for name in tensors_of_stage(pair)}
    module = rebuild(pair, own).eval()
    with torch.inference_mode():
        return dict(module(**{port.name: given[port.name] for port in pair.inputs}))


def through(
    exported: tuple[GraphPair, dict[str, Tensor]], cuts: list[Activation], given: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What the stages between these cuts say, one after the other."""
    pair, tensors = exported
    known = dict(given)
    outputs: dict[str, Tensor] = {}
    for begin, end in itertools.pairwise([None, *cuts, None]):
        outputs = run(cut_stage(pair, begin, end), tensors, known)
        known |= outputs
    return outputs


def test_stages_say_what_the_whole_says_at_every_place_and_for_sizes_that_were_never_traced(
    exported: tuple[GraphPair, dict[str, Tensor]],
) -> None:
    pair, tensors = exported
    profile = profile_stages(pair)
    assert len(profile.places) > 5
    for rows, length in ((3, 5), (1, 9)):
        given = example(rows, length)
        whole = run(pair, tensors, given)
        for place in profile.places:
            parts = through(exported, [place.activation], given)
            assert set(parts) == {"logits", "last"}
            for name, value in parts.items():
                assert (value - whole[name]).abs().max() <= 1e-5, (place.activation.place, name)
    cuts = [profile.places[number].activation for number in (1, len(profile.places) // 2, -2)]
    parts = through(exported, cuts, given)
    assert (parts["logits"] - whole["logits"]).abs().max() <= 1e-5


def test_profile_says_what_lies_before_each_place_and_what_crosses(
    exported: tuple[GraphPair, dict[str, Tensor]],
) -> None:
    pair, tensors = exported
    profile = profile_stages(pair)
    assert check_profile(profile) is profile
    assert profile.weight_bytes == sum(one.numel() * one.element_size() for one in tensors.values())
    for place in profile.places:
        first = cut_stage(pair, None, place.activation)
        own = sum(tensors[name].numel() * tensors[name].element_size() for name in tensors_of_stage(first))
        assert own == place.before_bytes
        assert place.activation.sides[0] == "batch"
        assert place.activation.sides[1] == "length"
        assert place.row_bytes > 0
    assert profile.places[-1].before_frac > 0.5
    assert weigh_profile(pair, profile) == profile
    lied = msgspec.structs.replace(
        profile, places=tuple(msgspec.structs.replace(one, before_bytes=1) for one in profile.places)
    )
    assert weigh_profile(pair, lied) == profile


def test_what_is_no_cut_is_refused_with_the_reason(exported: tuple[GraphPair, dict[str, Tensor]]) -> None:
    pair, _ = exported
    good = profile_stages(pair).places[0].activation
    wrong = msgspec.structs.replace(good, node=good.node - 1)
    with pytest.raises(InputError, match="where another one is said to be all that does"):
        cut_stage(pair, wrong, None)
    with pytest.raises(InputError, match="has no nodes"):
        cut_stage(pair, msgspec.structs.replace(good, place=100_000), None)
    with pytest.raises(InputError, match="of type 'quaternion'"):
        cut_stage(pair, msgspec.structs.replace(good, dtype="quaternion"), None)
    with pytest.raises(InputError, match="cannot be cut at nodes"):
        cut_stage(pair, msgspec.structs.replace(good, sides=("batch", "height", 16)), None)
    beyond = msgspec.structs.replace(good, place=150_000)
    place = CutPlace(activation=beyond, before_frac=0.5, before_bytes=1, row_bytes=1)
    with pytest.raises(InputError, match="cannot be cut at 150000"):
        weigh_profile(pair, GraphProfile(row_flops=1, weight_bytes=1, places=(place,)))


def test_profile_that_does_not_hold_together_is_refused_with_every_fault() -> None:
    places = (_place(5, 0.5, 10), _place(5, 0.4, 9))
    with pytest.raises(InputError, match="place 5 does not come after 5; place 5: less lies before it"):
        check_profile(GraphProfile(row_flops=1, weight_bytes=20, places=places))
    with pytest.raises(InputError, match="would be too long a name"):
        check_stages((Stage(model=ModelName("m" * 60), number=1, of=2, end=_place(5, 0.5, 10).activation),))


def _place(place: int, frac: float, nbytes: int, row_bytes: float = 100.0) -> CutPlace:
    activation = Activation(place=place, node=place - 1, dtype="float32", sides=("batch", 4))
    return CutPlace(activation=activation, before_frac=frac, before_bytes=nbytes, row_bytes=row_bytes)


def _host(name: str, memory: int = 10_000, flops: float = 1e9, rate: float = 1e8, way_s: float = 0.0) -> StageHost:
    return StageHost(node=NodeId(name), memory_bytes=memory, flops=flops, bytes_per_s=rate, way_s=way_s)


def _evenly(places: int = 9, weight: int = 1000, row_flops: float = 1e9) -> GraphProfile:
    made = tuple(_place(n, n / (places + 1), weight * n // (places + 1)) for n in range(1, places + 1))
    return GraphProfile(row_flops=row_flops, weight_bytes=weight, places=made)


def cuts(found: tuple[FoundStage, ...] | NoCut) -> list[tuple[str, int]]:
    assert not isinstance(found, NoCut), found
    return [(one.node, 0 if one.end is None else one.end.place) for one in found]


def test_equal_hosts_get_equal_stages_and_a_fast_one_more_of_the_computing() -> None:
    assert cuts(cut_stages(_evenly(), [_host("a"), _host("b")], stages=2))[0][1] == 5
    found = cuts(cut_stages(_evenly(), [_host("a", flops=4e9), _host("b")], stages=2))
    assert found == [("a", 8), ("b", 0)] or found == [("b", 2), ("a", 0)]


def test_as_few_stages_as_memory_allows_unless_their_number_is_asked_for() -> None:
    hosts = [_host("a", 700), _host("b", 700), _host("c", 700)]
    assert len(cuts(cut_stages(_evenly(), hosts, base_bytes=100))) == 2
    assert len(cuts(cut_stages(_evenly(), hosts, base_bytes=100, stages=3))) == 3
    assert cuts(cut_stages(_evenly(), [_host("a", 1100)], base_bytes=100)) == [("a", 0)]
    for stage in cut_stages(_evenly(), hosts, base_bytes=100, copies=1):
        assert isinstance(stage, FoundStage)
        assert 100 + stage.weight_bytes <= 700


def test_where_no_hosts_have_the_memory_both_numbers_are_told() -> None:
    found = cut_stages(_evenly(), [_host("a", 300), _host("b", 250)], base_bytes=100)
    assert isinstance(found, NoCut)
    assert "1100 bytes of memory and 100 for every stage but the first" in found.required
    assert found.available == "300, 250 bytes at its hosts"
    few = cut_stages(_evenly(), [_host("a")], stages=3)
    assert few == NoCut("3 stages", "1 hosts and 9 places to cut at")


def test_cut_moves_to_where_little_crosses_when_the_way_is_narrow() -> None:
    places = (
        _place(3, 0.3, 300, row_bytes=1e4),
        _place(5, 0.5, 500, row_bytes=1e9),
        _place(6, 0.6, 600, row_bytes=1e9),
    )
    profile = GraphProfile(row_flops=1e8, weight_bytes=1000, places=places)
    assert cuts(cut_stages(profile, [_host("a", rate=1e6), _host("b", rate=1e6)], stages=2))[0][1] == 3
    wide = [_host("a", rate=1e15), _host("b", rate=1e15)]
    assert cuts(cut_stages(profile, wide, stages=2))[0][1] == 5


@pytest.mark.parametrize("seed", range(12))
def test_longest_stage_is_as_short_as_any_way_could_make_it(seed: int) -> None:
    """Against every way there is, tried one by one."""
    draw = np.random.default_rng(seed)
    fracs, weights = np.sort(draw.random(5)), np.sort(draw.integers(0, 1000, 5))
    places = tuple(
        _place(n + 1, float(frac), int(weight), float(draw.integers(1, 10**7)))
        for n, (frac, weight) in enumerate(zip(fracs, weights, strict=True))
    )
    profile = GraphProfile(row_flops=float(draw.integers(1, 10**8)), weight_bytes=1000, places=places)
    hosts = [
        _host(name, int(draw.integers(300, 900)), float(draw.integers(10**7, 10**9)), 1e8, float(draw.random() / 100))
        for name in "abcd"
    ]
    count = int(draw.integers(2, 5))
    best = math.inf
    ends = [0.0, *(one.before_frac for one in places), 1.0]
    held = [0, *(one.before_bytes for one in places), 1000]
    moved = [0.0, *(one.row_bytes for one in places), 0.0]
    for order in itertools.permutations(hosts, count):
        for middle in itertools.combinations(range(1, 6), count - 1):
            longest = 0.0
            for host, (one, other) in zip(order, itertools.pairwise([0, *middle, 6]), strict=True):
                if 50 + held[other] - held[one] > host.memory_bytes:
                    longest = math.inf
                computing_s = (ends[other] - ends[one]) * profile.row_flops * QUERY_ROWS / host.flops
                moving_s = (moved[one] + moved[other]) * QUERY_ROWS / host.bytes_per_s
                longest = max(longest, computing_s + moving_s + host.way_s)
            best = min(best, longest)
    found = cut_stages(profile, hosts, stages=count, base_bytes=50)
    if math.isinf(best):
        assert isinstance(found, NoCut)
        return
    assert not isinstance(found, NoCut)
    assert max(one.seconds for one in found) == pytest.approx(best)
    assert [one.begin for one in found[1:]] == [one.end for one in found[:-1]]
    assert len({one.node for one in found}) == count
