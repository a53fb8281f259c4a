"""OpenAI's interface, the bodies: chat completions, completions and embeddings in, answers and pieces out.

What we have no engine for (several choices at once, tools, log-probabilities, pictures, structured output) is refused
by name instead of being left out silently; a field that we do not know is let pass, as that interface demands of
servers. A request's field `daitn` carries the goal; the headers `x-daitn-…` do so too (`inference_protocol.goal_of`).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec

from daitn.base.decoding import UNDECODABLE
from daitn.base.errors import InputError
from daitn.descriptors.pipelines import TextSwitch
from daitn.descriptors.serving import ServedModel
from daitn.descriptors.texts import (
    STOP_CHARS,
    STOPS,
    TEXT_CHARS,
    TEXTS,
    TOKENS_MOST,
    TURNS,
    Generation,
    TextAsk,
    TextBatch,
    Turn,
    check_text_ask,
)
from daitn.serving.tensors import array_of
from daitn.wire.answers import BatchAnswered, TextEnded

TOKENS_OF_COMPLETION: Final = 16
"""Where a completion says no length, as the interface has it; a chat's is `TOKENS_OF_CHAT`."""

TOKENS_OF_CHAT: Final = 4096

FINGERPRINT: Final = "daitn"
SIMULATED: Final = "daitn-simulated"
"""`system_fingerprint` of answers that nothing computed."""

Tokens = Annotated[int, msgspec.Meta(ge=1, le=TOKENS_MOST)]
Text = Annotated[str, msgspec.Meta(max_length=TEXT_CHARS)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=STOP_CHARS)]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a message's content."""

    type: str
    text: Text = ""


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a conversation."""

    role: str
    content: Text | Annotated[list[Part], msgspec.Meta(max_length=TURNS)] | None = None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What comes with a stream."""

    include_usage: bool | None = None


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What all three have in common."""

    model: Annotated[str, msgspec.Meta(max_length=256)]
    daitn: dict[str, Any] = {}
    """The query's goal: `deadline_ms`, `min_accuracy`, `field`, `region`, `zone`, `max_price`."""


class _Drawn(_Asked, frozen=True, kw_only=True):
    """What chats and completions have in common. Fields that are refused unless they ask for nothing are last."""

    max_tokens: Tokens | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(max_length=STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Any = None


class ChatRequest(_Drawn, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1, max_length=TURNS)]
    max_completion_tokens: Tokens | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None


class CompletionRequest(_Drawn, frozen=True, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Text | Annotated[list[Any], msgspec.Meta(min_length=1)]
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class EmbeddingRequest(_Asked, frozen=True, kw_only=True):
    """`POST /v1/embeddings`."""

    input: Text | Annotated[list[Any], msgspec.Meta(min_length=1, max_length=TEXTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


Kind = Literal["chat", "completion", "embedding"]
Request = ChatRequest | CompletionRequest | EmbeddingRequest

KINDS: Final[Mapping[str, Kind]] = {
    "/v1/chat/completions": "chat", "/v1/completions": "completion", "/v1/embeddings": "embedding",
}  # fmt: skip
"""By path."""

_chat: Final = msgspec.json.Decoder(ChatRequest)
_completion: Final = msgspec.json.Decoder(CompletionRequest)
_embedding: Final = msgspec.json.Decoder(EmbeddingRequest)

_ROLES: Final[Mapping[str, Literal["system", "user", "assistant"]]] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
}  # fmt: skip


def decode_chat(body: bytes) -> tuple[ChatRequest, Generation]:
    """A chat, and what it asks; InputError naming the part that cannot be."""
    asked: ChatRequest = _decode(_chat, body)
    _refuse(asked, tools=asked.tools, functions=asked.functions)
    if asked.response_format is not None and asked.response_format.get("type", "text") != "text":
        raise InputError(f"response_format {str(asked.response_format.get('type'))[:40]!r} is not served, text is")
    if asked.modalities not in (None, ["text"]):
        raise InputError(f"modalities {str(asked.modalities)[:80]} are not served, text is")
    turns = tuple(_turn(place, message) for place, message in enumerate(asked.messages))
    most = asked.max_completion_tokens or asked.max_tokens or TOKENS_OF_CHAT
    return asked, _generation(asked, most, turns=turns)


def decode_completion(body: bytes) -> tuple[CompletionRequest, Generation]:
    """A completion, and what it asks; InputError naming the part that cannot be."""
    asked: CompletionRequest = _decode(_completion, body)
    _refuse(asked, echo=asked.echo, suffix=asked.suffix)
    if asked.best_of not in (None, 1):
        raise InputError(f"best_of is {asked.best_of}, one answer is given")
    prompts = _texts("prompt", asked.prompt)
    if len(prompts) != 1:
        raise InputError(f"{len(prompts)} prompts in one request, one is answered", todo="send a request for each")
    return asked, _generation(asked, asked.max_tokens or TOKENS_OF_COMPLETION, prompt=prompts[0])


def decode_embedding(body: bytes) -> tuple[EmbeddingRequest, TextBatch]:
    """Texts that want vectors; InputError naming the part that cannot be."""
    asked: EmbeddingRequest = _decode(_embedding, body)
    batch = TextBatch(task="embed", texts=_texts("input", asked.input))
    check_text_ask(batch)
    return asked, batch


def request_of(kind: Kind, body: bytes) -> tuple[Request, TextAsk]:
    """A request of some kind, and what it asks; InputError naming the part that cannot be."""
    match kind:
        case "chat":
            return decode_chat(body)
        case "completion":
            return decode_completion(body)
        case "embedding":
            return decode_embedding(body)


# --- answers ----------------------------------------------------------------------------------------------------------


def model_of(model: ServedModel) -> dict[str, Any]:
    """A model, as it is listed."""
    does = [task.value for task in model.tasks] or ["tensors"]
    about = {"tasks": does, "hosts": len(model.routes)}
    return {"id": model.model, "object": "model", "created": 0, "owned_by": model.owner, "daitn": about}


def switch_of(switch: TextSwitch) -> dict[str, Any]:
    """A switch, as it is listed among models."""
    about = {"switch": [switch.cheap, switch.dear], "worth": switch.worth}
    return {"id": switch.name, "object": "model", "created": 0, "owned_by": "", "daitn": about}


def usage_of(ended: TextEnded) -> dict[str, int]:
    """What was read and written."""
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.tokens,
        "total_tokens": ended.prompt_tokens + ended.tokens,
    }


class Shape:
    """The bodies of one answer. `chat`: of a chat; else of a completion."""

    def __init__(self, query: str, model: str, created: int, *, chat: bool, simulated: bool) -> None:
        self._chat = chat
        kind = (
            "chat.completion" if chat else "text_completion",
            "chat.completion.chunk" if chat else "text_completion",
        )
        self._whole_kind, self._piece_kind = kind
        self._about = {
            "id": ("chatcmpl-" if chat else "cmpl-") + query,
            "created": created,
            "model": model,
            "system_fingerprint": SIMULATED if simulated else FINGERPRINT,
        }
        text = b'"content":' if chat else b'"text":'
        self._before, _, self._behind = (b"data: " + msgspec.json.encode(self.piece("")) + b"\n\n").partition(
            text + b'""'
        )
        self._before += text

    def whole(self, text: str, ended: TextEnded) -> dict[str, Any]:
        """An answer that is given at once."""
        said = {"message": {"role": "assistant", "content": text, "refusal": None}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": ended.reason}
        return {**self._about, "object": self._whole_kind, "choices": [choice], "usage": usage_of(ended)}

    def piece(self, text: str, *, first: bool = False, reason: str | None = None) -> dict[str, Any]:
        """A piece of a stream; `reason`: it is the last."""
        if self._chat:
            delta: dict[str, Any] = {"role": "assistant", "content": text} if first else {"content": text}
            said: dict[str, Any] = {"delta": {} if reason else delta}
        else:
            said = {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": reason}
        return {**self._about, "object": self._piece_kind, "choices": [choice]}

    def event(self, text: str) -> bytes:
        """A piece in the middle of a stream as an event of it; what is the same in all of them is encoded once."""
        return self._before + msgspec.json.encode(text) + self._behind

    def usage(self, ended: TextEnded) -> dict[str, Any]:
        """The piece behind the last, where usage was asked for."""
        return {**self._about, "object": self._piece_kind, "choices": [], "usage": usage_of(ended)}


def embeddings_of(asked: EmbeddingRequest, answer: BatchAnswered) -> dict[str, Any]:
    """Vectors, as they were asked for. InputError where they have another length than was wanted."""
    vectors = array_of(answer.values)
    if asked.dimensions not in (None, vectors.shape[1]):
        raise InputError(f"dimensions is {asked.dimensions}, the model's vectors have {vectors.shape[1]}")
    shown: list[dict[str, Any]] = []
    for row, vector in enumerate(vectors):
        raw = asked.encoding_format == "base64"
        value = base64.b64encode(vector.astype("<f4").tobytes()).decode() if raw else vector.tolist()
        shown.append({"object": "embedding", "index": row, "embedding": value})
    usage = {"prompt_tokens": answer.prompt_tokens, "total_tokens": answer.prompt_tokens}
    return {"object": "list", "data": shown, "model": asked.model, "usage": usage}


_KINDS: Final[Mapping[int, tuple[str, str | None]]] = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "too_large"),
    422: ("invalid_request_error", "goal_not_reached"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}


def error_of(status: int, what: str, reason: str = "") -> dict[str, Any]:
    """The standard body of an error."""
    kind, code = _KINDS.get(status, ("server_error", None))
    code = "model_not_found" if reason == "unknown-model" else code or reason or None
    return {"error": {"message": what, "type": kind, "param": None, "code": code}}


# --- reading ----------------------------------------------------------------------------------------------------------


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise InputError(f"the request does not decode: {str(error)[:200]}", todo="see OpenAI's interface") from None


def _refuse(asked: _Drawn, **wanted: Any) -> None:
    wanted |= {
        "presence_penalty": asked.presence_penalty,
        "frequency_penalty": asked.frequency_penalty,
        "logit_bias": asked.logit_bias,
        "logprobs": asked.logprobs,
    }
    if given := [name for name, value in wanted.items() if value]:
        raise InputError(f"{', '.join(given)}: not served here", todo="leave it out")
    if asked.n not in (None, 1):
        raise InputError(f"n is {asked.n}, one answer is given", todo="send as many requests")


def _generation(asked: _Drawn, most: int, *, prompt: str = "", turns: tuple[Turn, ...] = ()) -> Generation:
    stops = () if asked.stop is None else (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop)
    made = Generation(
        prompt=prompt,
        turns=turns,
        tokens_most=most,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=(asked.seed or 0) % 2**63,
        stops=stops,
    )
    check_text_ask(made)
    return made


def _turn(place: int, message: ChatMessage) -> Turn:
    role = _ROLES.get(message.role)
    if role is None:
        raise InputError(f"message {place} has the role {message.role[:40]!r}; {', '.join(_ROLES)} are served")
    content = message.content or ""
    if isinstance(content, list):
        if other := [part.type for part in content if part.type != "text"]:
            raise InputError(f"message {place} has a part of type {other[0][:40]!r}, text is served")
        content = "".join(part.text for part in content)
    return Turn(role=role, text=content)


def _texts(name: str, given: str | list[Any]) -> tuple[str, ...]:
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) and len(text) <= TEXT_CHARS for text in texts):
        raise InputError(f"{name} holds what is no text: tokens are not taken", todo="send strings")
    if any(not text for text in texts):
        raise InputError(f"{name} holds an empty text")
    return texts
