"""What keys may ask: terms, quotas and their refusals at a gateway, turns by weight and priority, terms in the book."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from daitn.base import limits
from daitn.base.errors import InputError
from daitn.base.ids import DomainId, ModelName, OwnerId
from daitn.base.metrics import Counters
from daitn.decision.query_route.fairness import LOWER_TURN, FairQueue
from daitn.decision.query_route.quotas import KeyQuotas
from daitn.descriptors.key_terms import KEY_MODELS, QUOTA_MOST, KeyPriority, KeyTerms, check_terms
from daitn.descriptors.serving import ApiKey
from daitn.node.http.owner_token import OwnerToken
from daitn.node.http.problems import HttpError
from daitn.node.http.tokens import Scope, TokenBook, digest_of_secret
from daitn.node.pki import create_authority
from daitn.node.serving.key_book import KeyBook
from daitn.wire.center_serving import KeysGiven

TOKEN = OwnerToken(address="127.0.0.1:1", domain=DomainId("d"), fingerprint=bytes(32), secret=bytes(32))
DIGEST = digest_of_secret(TOKEN.secret)


def book(terms: KeyTerms, now_s: list[float]) -> tuple[KeyBook, Counters]:
    counters = Counters()
    made = KeyBook(counters, lambda: now_s[0])
    made.take_keys([key_of(terms)])
    return made, counters


def key_of(terms: KeyTerms) -> ApiKey:
    return ApiKey(digest=DIGEST, owner=OwnerId("app"), expires_unix_s=time.time() + 1000, terms=terms)


# --- at a gateway -----------------------------------------------------------------------------------------------------


def test_key_asks_as_much_as_its_quota_and_is_told_when_to_come_back() -> None:
    now_s = [100.0]
    keys, counters = book(KeyTerms(queries_per_minute=3), now_s)
    for _ in range(3):
        asyncio.run(keys.begin(DIGEST, "sides"))
    with pytest.raises(HttpError, match="3 queries a minute") as refused:
        asyncio.run(keys.begin(DIGEST, "sides"))
    assert (refused.value.status, refused.value.wait_s) == (429, pytest.approx(20.0))
    assert counters.shown() == {"door_refused[quota]": 1}

    now_s[0] += 20.1
    asyncio.run(keys.begin(DIGEST, "sides"))


def test_tokens_are_counted_when_a_query_has_ended_and_debt_is_waited_for() -> None:
    now_s = [0.0]
    keys, _ = book(KeyTerms(tokens_per_minute=60, tokens_per_day=10_000), now_s)
    asyncio.run(keys.begin(DIGEST, "talker"))
    keys.spent(DIGEST, 90)
    with pytest.raises(HttpError, match="60 tokens a minute") as refused:
        asyncio.run(keys.begin(DIGEST, "talker"))
    assert refused.value.wait_s == pytest.approx(31.0)
    now_s[0] += 31.1
    asyncio.run(keys.begin(DIGEST, "talker"))


def test_day_counts_beyond_the_minute() -> None:
    quotas = KeyQuotas(KeyTerms(tokens_per_minute=1000, tokens_per_day=1500), 0.0)
    quotas.spend(0.0, tokens=900)
    quotas.spend(60.0, tokens=900)
    spent = quotas.refusal(120.0)
    assert spent is not None
    assert spent.what == "1500 tokens a day"
    assert spent.wait_s > 10_000


def test_key_is_for_its_models_only() -> None:
    keys, counters = book(KeyTerms(models=(ModelName("sides"),)), [0.0])
    asyncio.run(keys.begin(DIGEST, "sides"))
    with pytest.raises(HttpError, match="may not ask 'other'; it is for sides") as refused:
        asyncio.run(keys.begin(DIGEST, "other"))
    assert refused.value.status == 403
    assert counters.shown() == {"door_refused[model]": 1}


def test_what_was_counted_stays_while_quotas_stay_the_same() -> None:
    keys, _ = book(KeyTerms(queries_per_minute=1), [0.0])
    asyncio.run(keys.begin(DIGEST, "sides"))
    keys.take_keys([key_of(KeyTerms(queries_per_minute=1, weight=2.0))])
    with pytest.raises(HttpError):
        asyncio.run(keys.begin(DIGEST, "sides"))
    keys.take_keys([key_of(KeyTerms(queries_per_minute=2))])
    asyncio.run(keys.begin(DIGEST, "sides"))


# --- turns ------------------------------------------------------------------------------------------------------------


def taken(queue: FairQueue[str], count: int) -> dict[str, int]:
    found = [queue.pop() or "" for _ in range(count)]
    return {key: found.count(key) for key in sorted(set(found))}


def test_busy_keys_share_turns_by_their_weights() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(400):
        queue.push("light", "light", 1.0)
        queue.push("heavy", "heavy", 3.0)
    assert taken(queue, 400) == {"heavy": 300, "light": 100}


def test_higher_priority_goes_first_and_lower_is_not_forgotten() -> None:
    queue: FairQueue[str] = FairQueue()
    for _ in range(10 * LOWER_TURN):
        queue.push("low", "low", 100.0, 2)
        queue.push("high", "high", 0.01, 0)
    assert taken(queue, 10 * LOWER_TURN) == {"high": 10 * (LOWER_TURN - 1), "low": 10}
    assert len(queue) == 10 * LOWER_TURN
    assert taken(queue, 10 * LOWER_TURN) == {"high": 10, "low": 10 * (LOWER_TURN - 1)}
    assert queue.pop() is None


def test_query_that_is_withdrawn_leaves_its_turn_to_the_next() -> None:
    queue: FairQueue[str] = FairQueue()
    gone = queue.push("a", "first", 1.0, 0)
    queue.push("b", "second", 1.0, 1)
    assert gone is not None
    queue.remove(gone, "a")
    assert (len(queue), queue.pop(), queue.pop()) == (1, "second", None)


# --- terms ------------------------------------------------------------------------------------------------------------


def test_terms_that_cannot_be_are_refused_with_every_fault() -> None:
    models = tuple(ModelName(f"m{number}") for number in range(KEY_MODELS))
    with pytest.raises(InputError) as refused:
        check_terms(KeyTerms(models=(*models, ModelName("no such!")), weight=float("nan"), tokens_per_day=0))
    for part in ("5 models", "no such!", "weight nan", "tokens_per_day 0"):
        assert part in refused.value.what


def test_all_keys_of_the_longest_terms_fit_into_one_message() -> None:
    models = tuple(ModelName(f"{number}" * 63) for number in range(KEY_MODELS))
    terms = KeyTerms(
        models=models,
        priority=KeyPriority.HIGH,
        weight=0.333333,
        queries_per_minute=QUOTA_MOST,
        tokens_per_minute=QUOTA_MOST,
        tokens_per_day=QUOTA_MOST,
    )
    key = msgspec.structs.replace(key_of(terms), owner=OwnerId("o" * 63))
    message = KeysGiven(sequence=2**62, keys=(key,) * limits.GATEWAY_KEYS)
    assert len(msgspec.msgpack.encode(message)) < limits.MESSAGE_BYTES * 0.95


def test_terms_are_kept_in_the_book_and_changed(tmp_path: Path) -> None:
    authority = create_authority(tmp_path / "authority", DomainId("demo"))
    tokens = TokenBook(
        tmp_path / "tokens.sqlite",
        address="127.0.0.1:1",
        domain=DomainId("demo"),
        authority_pem=authority.certificate_pem,
    )
    terms = KeyTerms(models=(ModelName("sides"),), weight=2.0, tokens_per_day=1000)
    made = tokens.create("app", (Scope.ASK,), terms=terms)
    plain = tokens.create("other", (Scope.ASK,))
    assert [key.terms for key in tokens.keys(Scope.ASK, 10)] == [KeyTerms(), terms]

    changed = tokens.set_terms(tokens.name_of(made), KeyTerms(priority=KeyPriority.LOW))
    assert changed.terms == KeyTerms(priority=KeyPriority.LOW)
    assert {holder.owner: holder.terms for holder in tokens.holders()}["app"] == changed.terms

    with pytest.raises(InputError, match="may not ask"):
        tokens.create("trainer", (Scope.TRAIN,), terms=terms)
    tokens.revoke(plain)
    with pytest.raises(InputError, match="no key"):
        tokens.set_terms(plain, terms)
    tokens.close()
