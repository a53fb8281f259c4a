"""Texts asked of a running domain by an unmodified client of OpenAI's interface, a host killed in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.system.small_domain import wait_until

import daitn
from daitn.descriptors.terminals import Role
from daitn.descriptors.texts import Generation, Turn
from daitn.node.processes import LocalDomain
from daitn.scenario.spec import NodeSpec
from daitn.sdk.later_queries import ask_text_later, fetch_text_later, forget_later
from daitn.sdk.secret_texts import classify_secretly, embed_secretly, tell_secretly

openai = pytest.importorskip("openai")

pytestmark = pytest.mark.timeout(120)

OFFERS = """
[[offer]]
engine = "simulated"
model = "talker"
first_s = 0.05
token_s = 0.01
words_most = 100000
"""

SECRET = "patient Xylander has scurvy"


def test_unmodified_client_is_answered_in_pieces_while_the_host_that_answers_is_killed(tmp_path: Path) -> None:
    (tmp_path / "offers.toml").write_text(OFFERS)
    with LocalDomain(tmp_path / "domain", "told", patience_s=2.0) as domain:
        domain.start()
        hosts = [
            NodeSpec(name=name, operator=name, roles=(Role.HOST,), offers=str(tmp_path / "offers.toml"))
            for name in ("ash", "oak")
        ]
        said = domain.join_all([*hosts, NodeSpec(name="gate", operator="gate", roles=(Role.GATEWAY,))])
        with daitn.connect(domain.operator_token()) as operator:
            key = operator.make_owner_token("app", ("ask",))
            nodes = {one.descriptor.node: one.descriptor.name for one in operator.nodes()}
        client = openai.OpenAI(base_url=said["gate"]["queries"] + "/v1", api_key=key, max_retries=0, timeout=60)
        with client:
            wait_until(lambda: _hosts(client) == 2, "both hosts offer the model", 20)
            asked: dict[str, Any] = {"model": "talker", "temperature": 0, "max_tokens": 150}
            asked["messages"] = [{"role": "user", "content": SECRET}]
            whole = client.chat.completions.create(**asked).choices[0].message.content
            assert len(whole.split()) == 150

            turns = (Turn(role="user", text=SECRET),)
            secretly = Generation(turns=turns, tokens_most=150)
            address = said["gate"]["queries"]
            assert "".join(tell_secretly(address, key, "talker", secretly)) == whole
            told = client.embeddings.create(model="talker", input=[SECRET, "well"], encoding_format="float")
            vectors = embed_secretly(address, key, "talker", [SECRET, "well"])
            assert vectors.tolist() == [one.embedding for one in told.data]
            labels, scores = classify_secretly(address, key, "talker", [SECRET])
            assert scores.shape == (1, len(labels))
            _nothing_is_counted_of_it(domain, whole)

            query = ask_text_later(address, key, "chat/completions", asked)
            wait_until(lambda: fetch_text_later(address, key, query) is not None, "it is answered, later", 10)
            later = fetch_text_later(address, key, query)
            assert later is not None
            assert later["choices"][0]["message"]["content"] == whole
            forget_later(address, key, query)  # nor is that in any file then

            raw = client.chat.completions.with_raw_response.create(**asked, stream=True)
            answering = nodes[raw.headers["x-daitn-host"]]
            parts: list[str] = []
            for piece in raw.parse():
                parts.append(piece.choices[0].delta.content or "")
                if len(parts) == 10:
                    domain.kill(answering)
            assert "".join(parts) == whole
            wait_until(lambda: _hosts(client) == 1, "the lost host is no route any more", 20)

        for path in (path for path in tmp_path.rglob("*") if path.is_file()):
            data = path.read_bytes()
            assert SECRET.encode() not in data, f"{path} holds the query"
            assert whole[:60].encode() not in data, f"{path} holds the answer"


def _nothing_is_counted_of_it(domain: LocalDomain, whole: str) -> None:
    with daitn.connect(domain.operator_token()) as operator:
        counters = msgspec.json.encode(operator.counters())
    assert b"Xylander" not in counters
    assert whole[:60].encode() not in counters


def _hosts(client: Any) -> int:
    try:
        found = client.models.list().data
    except openai.AuthenticationError:  # the gateway was not told of the key yet
        return 0
    return sum(model.model_extra["daitn"]["hosts"] for model in found)
