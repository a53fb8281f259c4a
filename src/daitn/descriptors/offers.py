"""What a host brings to the network by itself: a folder with a model, another server, or a simulation of one.

A deployed model is a package that its provider gave to the network, and the network chose its hosts. An *offered* model
is there already: its host's operator named it in the node's configuration. Queries reach it by the same gateways under
the same goals. Hosts that offer the same model under the same name are its replicas; the *likeness* says what is the
same, and leaves out how fast it is.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from blake3 import blake3

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId, ModelName
from daitn.base.names import check_name
from daitn.descriptors.texts import TextTask

OFFERS: Final = 32
"""Models that one host may offer by itself."""

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Count = Annotated[int, msgspec.Meta(ge=1, le=4096)]


class SimulatedFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every `every`-th query fails after so many tokens: `error` it ends, `hang` it says nothing more, `death` the
    engine is gone with all it had under way."""

    every: Annotated[int, msgspec.Meta(ge=1)]
    after_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    how: Literal["error", "hang", "death"] = "error"


class SimulatedOffer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="simulated", tag_field="engine"
):
    """A language model that computes nothing: words and times follow from seeds. For tests of scale; every answer says
    that it is simulated."""

    model: ModelName
    first_s: Seconds = 0.2
    """To the first token of a short prompt, alone."""
    prompt_token_s: Seconds = 0.0001
    """More for each token of the prompt."""
    token_s: Seconds = 0.02
    """Between two tokens, alone."""
    load_frac: Annotated[float, msgspec.Meta(ge=0, le=100)] = 0.05
    """Each other continuation under way makes all times longer by this share."""
    jitter_frac: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    """Times vary by this share, drawn from the query's seed."""
    concurrency: Count = 32
    words_most: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    """Longest answer."""
    width: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 16
    """Numbers of a vector."""
    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=1024)] = ("no", "yes")
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    fault: SimulatedFault | None = None

    @property
    def likeness(self) -> ArtifactId:
        """What another host must share to be a replica."""
        return _digest("simulated", self.model, self.seed, self.words_most, self.width, *self.labels)

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """What it does with text."""
        return tuple(TextTask)


class TextServerOffer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="openai", tag_field="engine"
):
    """A server that speaks OpenAI's interface, unchanged: vLLM, llama.cpp, Ollama, another gateway."""

    model: ModelName
    address: Annotated[str, msgspec.Meta(max_length=1024)]
    """As `http://127.0.0.1:8000`, without `/v1`."""
    their_model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """What the server calls it; empty: the same."""
    tasks: Annotated[tuple[Literal["generate", "embed"], ...], msgspec.Meta(min_length=1, max_length=2)] = ("generate",)
    key_file: str = ""
    """File with the server's key; empty: it wants none."""
    concurrency: Count = 16
    silent_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    """A server that says nothing for so long is not waited for."""
    version: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """What tells two models of one name apart, such as a revision; hosts with equal ones are replicas."""

    @property
    def likeness(self) -> ArtifactId:
        """What another host must share to be a replica."""
        return _digest("openai", self.model, self.their_model or self.model, self.version, *self.tasks)


class TensorServerOffer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="inference-server", tag_field="engine"
):
    """A server that speaks the Open Inference Protocol v2, unchanged: Triton, KServe, another gateway."""

    model: ModelName
    address: Annotated[str, msgspec.Meta(max_length=1024)]
    their_model: Annotated[str, msgspec.Meta(max_length=256)] = ""
    key_file: str = ""
    rows_most: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 32
    """Rows of one request to it."""
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    silent_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 30.0
    version: Annotated[str, msgspec.Meta(max_length=256)] = ""

    @property
    def likeness(self) -> ArtifactId:
        """What another host must share to be a replica."""
        return _digest("inference-server", self.model, self.their_model or self.model, self.version)

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """None of texts."""
        return ()


class FolderOffer(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="transformers", tag_field="engine"
):
    """A folder as `transformers` saves a model: config.json, *.safetensors, tokenizer.json. Replicas are told by its
    files' digest."""

    model: ModelName
    folder: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    task: TextTask = TextTask.GENERATE
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=256)] = 8
    """Answers under way at a time: they take turns token by token."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1

    @property
    def tasks(self) -> tuple[TextTask, ...]:
        """What it does with text."""
        return (self.task,)


Offer = SimulatedOffer | TextServerOffer | TensorServerOffer | FolderOffer
"""Any of them."""


def check_offers(offers: tuple[Offer, ...]) -> tuple[Offer, ...]:
    """The offers, if they hold together; InputError listing every fault."""
    faults: list[str] = []
    seen: set[str] = set()
    for offer in offers:
        try:
            check_name("model", offer.model)
        except InputError as error:
            faults.append(error.what)
        if offer.model in seen:
            faults.append(f"model {offer.model} is offered twice")
        seen.add(offer.model)
        if isinstance(offer, TextServerOffer | TensorServerOffer):
            try:
                check_address(offer.address)
            except InputError as error:
                faults.append(f"model {offer.model}: {error.what}")
    if len(offers) > OFFERS:
        faults.append(f"{len(offers)} models are offered, the limit is {OFFERS}")
    if faults:
        raise InputError("the offers are not consistent: " + "; ".join(faults), todo="correct the file of offers")
    return offers


def check_address(text: str) -> str:
    """An address of another server, without a slash at its end; InputError where it is none."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        usable = usable and not parts.username and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{text[:80]!r} is no address of a server", todo="write for example http://127.0.0.1:8000")
    return text.rstrip("/")


def _digest(*parts: object) -> ArtifactId:
    return ArtifactId(blake3(msgspec.json.encode([str(part) for part in parts])).hexdigest())
