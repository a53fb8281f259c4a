"""Secure aggregation's numbers: the right sum of many sites, whoever is lost, and nothing told of one of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.builders import changed

from daitn.artifacts.layout import TensorSpec, plan_layout
from daitn.artifacts.signatures import public_hex
from daitn.base.errors import InputError, PeerError, PolicyError, UnavailableError
from daitn.base.ids import DataSetId, NodeId
from daitn.descriptors.masked import (
    FixedPoint,
    Masking,
    MaskMember,
    SharesOf,
    Unmasking,
    threshold_of,
)
from daitn.learning.masking import shamir
from daitn.learning.masking.opening import unmask
from daitn.learning.masking.ring import add_stream, add_update, count_elements, ring_of, write_mean, write_update
from daitn.learning.masking.site import SiteMasks
from daitn.learning.numerics.blocks import tensor_view
from daitn.learning.numerics.server_step import Area

ROUND = "job-1/4"


@dataclass
class Party:
    """All members of one round, and what each would add."""

    sites: list[SiteMasks]
    members: tuple[MaskMember, ...]
    sealed: dict[int, tuple[bytes, ...]]
    fixed: FixedPoint

    @property
    def threshold(self) -> int:
        return threshold_of(len(self.members))

    def masking(self, rank: int) -> Masking:
        sealed = tuple(self.sealed[one][rank] if one in self.sealed else b"" for one in range(len(self.members)))
        return Masking(round=ROUND, rank=rank, sealed=sealed, fixed=self.fixed)

    def masked(self, rank: int, update: np.ndarray) -> np.ndarray:
        hidden = update.copy()
        self.sites[rank].mask(self.masking(rank), hidden)
        return hidden

    def unmasking(self, summed: list[int], answering: list[int]) -> Unmasking:
        return Unmasking(
            round=ROUND,
            mask_keys=tuple(member.keys.mask for member in self.members),
            sealed=tuple(sorted(self.sealed)),
            summed=tuple(summed),
            threshold=self.threshold,
            answers=tuple(SharesOf(rank=rank, shares=self.sites[rank].unmask(ROUND, summed)) for rank in answering),
            fixed=self.fixed,
            weight=float(len(summed)),
        )


def make_party(count: int, silent: tuple[int, ...] = ()) -> Party:
    """Sites that have agreed on keys; all but the `silent` have sealed their shares."""
    keys = [Ed25519PrivateKey.generate() for _ in range(count)]
    sites = [SiteMasks(NodeId(f"n{rank}"), key) for rank, key in enumerate(keys)]
    members = tuple(
        MaskMember(
            node=site.node, dataset=DataSetId(f"n{rank}/d"), signer=public_hex(key), keys=site.agree(ROUND, "job-1")
        )
        for rank, (site, key) in enumerate(zip(sites, keys, strict=True))
    )
    sealed = {rank: site.seal(ROUND, members) for rank, site in enumerate(sites) if rank not in silent}
    return Party(sites, members, sealed, FixedPoint(norm_most=10.0, records_most=100.0, members=count))


def draw_updates(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Numbers of the ring, one row for each site."""
    return np.random.default_rng(seed).integers(0, 1 << 32, size=(count, length), dtype=np.uint32)


def added(rows: np.ndarray) -> np.ndarray:
    return rows.sum(axis=0, dtype=np.uint64).astype(np.uint32)


# --- the sum ------------------------------------------------------------------------------------------------------


def test_hundred_sites_of_which_ten_are_lost_give_the_right_sum():
    party, updates = make_party(100), draw_updates(100, 300)
    lost = set(random.Random(3).sample(range(100), 10))
    summed = [rank for rank in range(100) if rank not in lost]
    total = np.zeros(300, dtype=np.uint32)
    for rank in summed:
        add_update(total, party.masked(rank, updates[rank]))
    assert not np.array_equal(total, added(updates[summed]))

    answering = summed[-party.threshold :]
    unmask(total, party.unmasking(summed, answering))

    np.testing.assert_array_equal(total, added(updates[summed]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_sum_is_right_whoever_is_lost_at_whichever_stage(data):
    count = data.draw(st.integers(3, 9), label="members")
    order = data.draw(st.permutations(range(count)), label="order")
    sealing = data.draw(st.integers(threshold_of(count), count), label="that sealed")
    in_sum = data.draw(st.integers(threshold_of(count), sealing), label="in the sum")
    answering = data.draw(st.integers(threshold_of(count), in_sum), label="that answer")
    party, updates = make_party(count, silent=tuple(order[sealing:])), draw_updates(count, 7)
    summed = sorted(order[:in_sum])
    total = added(np.stack([party.masked(rank, updates[rank]) for rank in summed]))

    unmask(total, party.unmasking(summed, list(order[:answering])))

    np.testing.assert_array_equal(total, added(updates[summed]))


def test_too_few_answers_open_nothing():
    party, updates = make_party(6), draw_updates(6, 5)
    total = added(np.stack([party.masked(rank, updates[rank]) for rank in range(6)]))

    with pytest.raises(PeerError, match="4 members gave their shares, 5 are needed"):
        unmask(total, party.unmasking(list(range(6)), [0, 1, 2, 3]))


def test_sum_of_sites_that_are_not_in_the_round_is_not_opened():
    party = make_party(3)
    for rank in range(3):
        party.masked(rank, np.zeros(2, np.uint32))
    opening = changed(party.unmasking([0, 1, 2], [0, 1, 2]), sealed=(0, 1))

    with pytest.raises(PeerError, match="sites that are not in the round"):
        unmask(np.zeros(2, np.uint32), opening)


def test_share_that_was_changed_shows_in_the_mask_key_of_one_who_was_lost():
    party, updates = make_party(6), draw_updates(6, 5)
    summed = [0, 1, 2, 3, 4]
    total = added(np.stack([party.masked(rank, updates[rank]) for rank in summed]))
    opening = party.unmasking(summed, summed)
    shares = opening.answers[0].shares
    forged = changed(
        opening.answers[0], shares=(*shares[:5], shares[5][:9] + bytes([shares[5][9] ^ 1]) + shares[5][10:])
    )

    with pytest.raises(PeerError, match="member 5 are not of its mask key"):
        unmask(total, changed(opening, answers=(forged, *opening.answers[1:])))


# --- what one update shows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1])
def test_masked_update_is_uniform_whatever_is_in_it(value):
    party = make_party(3)
    update = np.full(1 << 16, value, dtype=np.uint32)
    hidden = party.masked(0, update)

    counts = np.bincount(hidden.view(np.uint8), minlength=256)
    expected = hidden.nbytes / 256
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 255 + 6 * np.sqrt(2 * 255)
    bits = np.unpackbits(hidden.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.005


def test_update_stays_hidden_from_all_others_together_until_they_answer():
    """Every mask between two comes off with what the others know; the site's own does not."""
    party = make_party(4)
    update = np.zeros(4096, dtype=np.uint32)
    hidden = party.masked(0, update)
    for rank in (1, 2, 3):
        other = np.zeros(4096, dtype=np.uint32)
        party.sites[rank].mask(party.masking(rank), other)
        hidden += other  # their own masks are in it as well, which they know

    assert np.count_nonzero(hidden) > 4000


def test_masks_of_two_rounds_differ():
    party, again = make_party(3), make_party(3)
    zeros = np.zeros(64, dtype=np.uint32)

    assert not np.array_equal(party.masked(0, zeros), again.masked(0, zeros))


def test_sealed_shares_are_opened_by_nobody_else():
    party = make_party(4)
    swapped = changed(party.masking(1), sealed=tuple(party.sealed[rank][3] if rank else b"x" for rank in range(4)))

    with pytest.raises(PeerError, match="were changed"):
        party.sites[1].mask(changed(swapped, sealed=(party.sealed[0][2], *swapped.sealed[1:])), np.zeros(4, np.uint32))


# --- what a site refuses ------------------------------------------------------------------------------------------


def test_site_answers_one_sum_and_no_other():
    party, updates = make_party(7), draw_updates(7, 3)
    for rank in range(7):
        party.masked(rank, updates[rank])
    site = party.sites[0]
    first = site.unmask(ROUND, [0, 1, 2, 3, 4])

    assert site.unmask(ROUND, [4, 3, 2, 1, 0]) == first
    with pytest.raises(PolicyError, match="opened for another sum"):
        site.unmask(ROUND, [0, 1, 2, 3, 4, 5])


def test_site_never_tells_both_shares_of_a_member():
    party, updates = make_party(7), draw_updates(7, 3)
    for rank in range(7):
        party.masked(rank, updates[rank])
    answer = party.sites[0].unmask(ROUND, [0, 1, 2, 3, 4])
    held = party.sites[0]._rounds[ROUND].shares

    for rank, share in enumerate(answer):
        mask_share, self_share = held[rank][:32], held[rank][32:]
        assert share == (self_share if rank < 5 else mask_share)


@pytest.mark.parametrize(
    ("summed", "why"),
    [([0, 1, 2], "the sum has 3 of 7"), ([1, 2, 3, 4, 5], "not in the sum"), ([0, 1, 2, 3, 9], "a stranger's is")],
)
def test_site_refuses_to_open_a_sum_that_hides_too_little(summed, why):
    party, updates = make_party(7), draw_updates(7, 3)
    party.masked(0, updates[0])

    with pytest.raises(PolicyError, match=why):
        party.sites[0].unmask(ROUND, summed)


def test_site_masks_one_update_a_round():
    party, updates = make_party(3), draw_updates(3, 3)
    party.masked(0, updates[0])

    with pytest.raises(PolicyError, match="has been used here"):
        party.masked(0, updates[1])


def test_site_refuses_keys_that_another_has_signed():
    party = make_party(4)
    fresh = SiteMasks(NodeId("n0"), party.sites[0]._signing)
    swapped = changed(party.members[1], keys=changed(party.members[1].keys, mask=bytes([9]) * 32))
    mine = changed(party.members[0], keys=fresh.agree(ROUND, "job-1"))

    with pytest.raises(PeerError, match="keys of n1 for round job-1/4 are not signed by"):
        fresh.seal(ROUND, (mine, swapped, *party.members[2:]))


def test_site_refuses_a_round_of_two_other_members_and_itself_twice():
    party = make_party(4)
    site = party.sites[0]
    with pytest.raises(PolicyError, match="2 sites are too few"):
        site.seal(ROUND, party.members[:2])
    with pytest.raises(PolicyError, match="had other members before"):
        site.seal(ROUND, party.members[:3])
    fresh = SiteMasks(NodeId("n0"), site._signing)
    mine = changed(party.members[0], keys=fresh.agree(ROUND, "job-1"))
    with pytest.raises(PeerError, match="a site is twice"):
        fresh.seal(ROUND, (mine, mine, *party.members[1:]))
    with pytest.raises(PeerError, match="does not have the keys that this site made"):
        fresh.seal(ROUND, party.members)


def test_site_that_knows_of_too_few_seeds_hides_nothing():
    party = make_party(6, silent=(1, 2))

    with pytest.raises(PolicyError, match="4 of 6 sites have shared their seeds"):
        party.masked(0, np.zeros(3, np.uint32))


def test_site_that_restarted_has_dropped_out():
    party = make_party(3)
    again = SiteMasks(NodeId("n0"), party.sites[0]._signing)

    with pytest.raises(UnavailableError, match="it has restarted since"):
        again.unmask(ROUND, [0, 1, 2])
    party.sites[0].forget("job-1")
    with pytest.raises(UnavailableError, match="or the round is over"):
        party.masked(0, np.zeros(3, np.uint32))


# --- shares -------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(0, shamir.PRIME - 1), st.integers(2, 9), st.data())
def test_any_threshold_of_shares_gives_the_secret_and_one_less_gives_any(secret, count, data):
    threshold = data.draw(st.integers(2, count))
    ranks = data.draw(st.permutations(range(count)))[:threshold]
    shares = shamir.split(secret, threshold, count)
    given_ = {rank: shares[rank] for rank in ranks}

    assert shamir.combine(given_, shamir.coefficients_at_zero(ranks)) == secret
    # One share less: for every other secret there is a last share that gives it.
    last = ranks[-1]
    coefficients = shamir.coefficients_at_zero(ranks)
    other = data.draw(st.integers(0, shamir.PRIME - 1))
    wanted = (other - secret) * pow(coefficients[last], -1, shamir.PRIME) + int.from_bytes(shares[last], "little")
    given_[last] = (wanted % shamir.PRIME).to_bytes(32, "little")
    assert shamir.combine(given_, coefficients) == other


def test_share_beyond_the_field_is_refused():
    with pytest.raises(PeerError, match="share of member 1 is not below"):
        shamir.combine({0: bytes(32), 1: bytes([255]) * 32}, shamir.coefficients_at_zero([0, 1]))


# --- fixed point --------------------------------------------------------------------------------------------------


def model(rng: np.random.Generator, moved: Area | None = None, *, by: float = 1.0) -> Area:
    """A model of every kind of tensor; with `moved`, that one changed a little."""
    layout = plan_layout(
        [
            TensorSpec(name="w", dtype="float32", shape=(40_000,), role="parameter"),
            TensorSpec(name="half", dtype="bfloat16", shape=(8, 3), role="parameter"),
            TensorSpec(name="base", dtype="float32", shape=(5,), role="frozen"),
            TensorSpec(name="mean", dtype="float64", shape=(6,), role="buffer"),
            TensorSpec(name="seen", dtype="int64", shape=(), role="buffer"),
            TensorSpec(name="on", dtype="bool", shape=(2,), role="buffer"),
        ]
    )
    area = Area(layout.entries, memoryview(bytearray(layout.payload_bytes)))
    arrays = arrays_of(area)
    if moved is None:
        arrays["w"][:], arrays["mean"][:] = rng.normal(size=40_000), rng.normal(size=6)
        arrays["half"][:] = np.float32(rng.normal(size=24)).view(np.uint32) >> 16
        arrays["base"][:], arrays["seen"][:], arrays["on"][:] = 1.0, 7, (True, False)
        return area
    area.payload[:] = moved.payload
    arrays["w"][:] += by * rng.normal(size=40_000) / 200
    arrays["mean"][:] += by * rng.normal(size=6) / 100
    arrays["seen"][:] += 12
    return area


def arrays_of(area: Area) -> dict[str, np.ndarray]:
    return {entry.name: tensor_view(area.payload, entry) for entry in area.entries}


def test_mean_through_the_ring_is_the_weighted_mean_of_the_models():
    rng = np.random.default_rng(5)
    base = model(rng)
    sites = [model(rng, base) for _ in range(4)]
    records = [30.0, 60.0, 100.0, 400.0]
    fixed = FixedPoint(norm_most=10.0, records_most=100.0, members=4)
    shares = [fixed.share_of(one) for one in records]
    assert shares == [0.3, 0.6, 1.0, 1.0]
    total = np.zeros(count_elements(base.entries), dtype=np.uint32)
    for site, share in zip(sites, shares, strict=True):
        update = np.empty_like(total)
        norm = write_update(base, site, share, fixed, update)
        assert norm == pytest.approx(1.0, rel=0.1)
        add_update(total, update)
    mean = Area(base.entries, memoryview(bytearray(base.payload)))
    write_mean(base, total, sum(shares), 4, fixed, mean)

    found = arrays_of(mean)
    for name, atol in (("w", 3e-7), ("mean", 3e-7)):
        expected = np.average([arrays_of(site)[name] for site in sites], axis=0, weights=shares)
        np.testing.assert_allclose(found[name], expected, atol=atol, rtol=1e-6)
    for name in ("half", "base", "on"):
        np.testing.assert_array_equal(found[name], arrays_of(base)[name])
    assert found["seen"][0] == 19


def test_update_beyond_the_norm_is_made_as_short_as_it():
    rng = np.random.default_rng(1)
    base = model(rng)
    far = model(rng, base, by=50.0)
    fixed = FixedPoint(norm_most=5.0, records_most=1.0, members=3)
    update = np.empty(count_elements(base.entries), dtype=np.uint32)

    norm = write_update(base, far, 1.0, fixed, update)

    assert norm > 40
    assert np.linalg.norm(update.view(np.int32) / fixed.units) == pytest.approx(5.0, rel=1e-3)


def test_largest_possible_updates_of_all_members_do_not_wrap_around():
    fixed = FixedPoint(norm_most=3.0, records_most=1.0, members=128)
    layout = plan_layout([TensorSpec(name="w", dtype="float32", shape=(1,), role="parameter")])
    base = Area(layout.entries, memoryview(bytearray(layout.payload_bytes)))
    far = Area(layout.entries, memoryview(bytearray(layout.payload_bytes)))
    arrays_of(far)["w"][:] = 1e30
    update, total = np.empty(1, np.uint32), np.zeros(1, np.uint32)
    write_update(base, far, 1.0, fixed, update)
    for _ in range(128):
        add_update(total, update)
    mean = Area(layout.entries, memoryview(bytearray(layout.payload_bytes)))
    write_mean(base, total, 128.0, 128, fixed, mean)

    assert arrays_of(mean)["w"][0] == pytest.approx(3.0, rel=1e-5)


def test_update_of_other_tensors_or_not_finite_is_refused():
    rng = np.random.default_rng(2)
    base, fixed = model(rng), FixedPoint(norm_most=5.0, records_most=1.0, members=3)
    update = np.empty(count_elements(base.entries), dtype=np.uint32)
    others = [entry for entry in base.entries if entry.name != "w"]
    with pytest.raises(InputError, match="tensor 'w' of the trained model"):
        write_update(base, Area(others, base.payload), 1.0, fixed, update)
    broken = model(rng, base)
    arrays_of(broken)["w"][3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        write_update(base, broken, 1.0, fixed, update)
    with pytest.raises(InputError, match="the sum has 3 numbers"):
        write_mean(base, update[:3], 1.0, 1, fixed, base)
    with pytest.raises(PeerError, match="a masked update has 2 numbers, the others 3"):
        add_update(update[:3], update[:2])
    with pytest.raises(PeerError, match="no masked update"):
        ring_of(base.payload, base.entries)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300_000), st.binary(min_size=32, max_size=32))
def test_stream_added_and_taken_away_leaves_what_was(length, key):
    before = np.arange(length, dtype=np.uint32)
    target = before.copy()
    add_stream(target, key, 1)
    add_stream(target, key, -1)

    np.testing.assert_array_equal(target, before)
