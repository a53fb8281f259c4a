"""Which options of a request go with which method, and why not: the matrix that is published and judged by.

One row per option, one column per method; a reason where they do not go together. Admission refuses what is asked for
outside it (`decision.feasibility`), so that no option is silently without effect, and the counter-offer leaves the
option out. `docs/methods.md` shows the table, made from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from daitn.descriptors.request import Request
from daitn.learning.methods import METHODS, splits
from daitn.learning.methods.contract import Method


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """Something a request may ask for that not every method can do."""

    name: str
    """As a request has it."""
    what: str
    """What it does, in words."""
    asked: Callable[[Request], bool]
    refused: Callable[[Method], str]
    """Why a method cannot do it; empty: it can."""
    without: Callable[[Request], Request]
    """The request without it."""
    beside: str = ""
    """Another option that it does not go with, whatever the method."""
    why_beside: str = ""


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """One option that a method does not admit."""

    option: Option
    method: str
    why: str
    beside: bool = False
    """Whether it is another option that it does not go with."""

    @property
    def what(self) -> str:
        """`server_learning_rate: a step that follows the mean`."""
        return f"{self.option.name}: {self.option.what}"

    @property
    def admitted_by(self) -> str:
        """`one of` the methods that can do it, or what has to be left out."""
        if self.beside:
            return f"a request without {self.option.beside}"
        return f"one of {', '.join(sorted(name for name, one in METHODS.items() if not self.option.refused(one)))}"


def _pinned(name: str, admits: Callable[[object], bool] = lambda _: False) -> Callable[[Request], bool]:
    """Whether a hyper-parameter is pinned to anything but what every method can do."""

    def asked(request: Request) -> bool:
        value = getattr(request.hyperparameters, name)
        return value is not None and not admits(value)

    return asked


def _unpinned(name: str) -> Callable[[Request], Request]:
    def without(request: Request) -> Request:
        hyperparameters = msgspec.structs.replace(request.hyperparameters, **{name: None})
        return msgspec.structs.replace(request, hyperparameters=hyperparameters)

    return without


def _no_step(method: Method) -> str:
    return "" if method.prefers.server is not None else f"method {method.name!r} has none"


def _other_descent(method: Method) -> str:
    plain = method.prefers.control_variates
    return "its corrections are of plain gradient steps" if plain else ""


def _no_slots(method: Method) -> str:
    if splits(method.name):
        return "no member has the whole model while it is trained"
    return "what an optimizer remembers stays at the site" if method.aggregates or method.exchanges else ""


def _shown(method: Method) -> str:
    if not method.aggregates:
        return "no updates are added up"
    if method.gossips:
        return "its sites see one another's models"
    if method.in_shares:
        return "its shares are opened one by one, and masks cancel in the sum of all"
    if method.buffered:
        return "its updates come one by one, and masks cancel in a round of which all are there"
    return "its control variates would show what the masks hide" if method.prefers.control_variates else ""


def _whole(method: Method) -> str:
    if not method.aggregates:
        return "no updates are handed in: the model itself goes on"
    if method.gossips:
        return "its sites begin from models of their own, and what a visit changed is of no use without that model"
    return "its control variates are told from exact updates" if method.prefers.control_variates else ""


def _not_noised(method: Method) -> str:
    if splits(method.name):
        return "what crosses the cut bears no noise"
    if method.exchanges:
        return "what its sites exchange in each step says how many records they have"
    if method.prefers.distillation:
        return "it keeps up answers to whole batches, and records of one batch may not be seen together"
    return "it chooses sites by their losses, which bear no noise" if method.rounds == "oort" else ""


OPTIONS: Final[tuple[Option, ...]] = (
    Option(
        name="server_learning_rate",
        what="a step that follows the mean",
        asked=_pinned("server_learning_rate"),
        refused=_no_step,
        without=_unpinned("server_learning_rate"),
    ),
    Option(
        name="optimizer",
        what="momentum, adam or adamw at the sites",
        asked=_pinned("optimizer", lambda value: value == "sgd"),
        refused=_other_descent,
        without=_unpinned("optimizer"),
    ),
    Option(
        name="average_steps",
        what="hand on the average of a model's weights",
        asked=_pinned("average_steps", lambda value: value == 0),
        refused=_no_slots,
        without=_unpinned("average_steps"),
    ),
    Option(
        name="secure_aggregation",
        what="nobody sees an update of one site, only their sum; their norm is bounded at each site",
        asked=lambda request: request.secure_aggregation is not None,
        refused=_shown,
        without=lambda request: msgspec.structs.replace(request, secure_aggregation=None),
    ),
    Option(
        name="compression",
        what="updates in 8 bits a number, or their largest numbers only; the rest follows with the next",
        asked=lambda request: request.compression is not None,
        refused=_whole,
        without=lambda request: msgspec.structs.replace(request, compression=None),
        beside="secure_aggregation",
        why_beside="masks cancel in a sum of whole numbers, and not where each site scales and chooses its own",
    ),
    Option(
        name="privacy",
        what="each record's gradient is clipped, and noise added, at its site; what that costs a data set is bounded",
        asked=lambda request: request.privacy is not None,
        refused=_not_noised,
        without=lambda request: msgspec.structs.replace(request, privacy=None),
    ),
)
"""Every option that some method refuses."""


def conflicts(method: Method, request: Request) -> tuple[Conflict, ...]:
    """What a request asks for and the method cannot do."""
    asked = {option.name: option for option in OPTIONS if option.asked(request)}
    found = [
        Conflict(option=option, method=method.name, why=why)
        for option in asked.values()
        if (why := option.refused(method))
    ]
    found += [
        Conflict(option=option, method=method.name, why=option.why_beside, beside=True)
        for option in asked.values()
        if option.beside in asked and not option.refused(method)
    ]
    return tuple(found)


def without_option(request: Request, what: str) -> Request:
    """The request without the option that a conflict called `what`; unchanged where it is no conflict's."""
    for option in OPTIONS:
        if what.startswith(f"{option.name}: "):
            return option.without(request)
    return request


def matrix(methods: Iterable[Method] = METHODS.values()) -> str:
    """The table in Markdown: a tick, or a letter for the reason that stands below."""
    listed = list(methods)
    lines = ["| | " + " | ".join(f"`{one.name}`" for one in listed) + " |", "|---" * (len(listed) + 1) + "|"]
    reasons: dict[str, str] = {}
    for option in OPTIONS:
        cells: list[str] = []
        for method in listed:
            why = option.refused(method).replace(f"method {method.name!r}", "the method")
            cells.append(f"no ({reasons.setdefault(why, chr(ord('a') + len(reasons)))})" if why else "yes")
        lines.append(f"| `{option.name}`: {option.what} | " + " | ".join(cells) + " |")
    lines += ["", *(f"({letter}) {why}. " for why, letter in reasons.items())]
    lines += [
        f"\n`{option.name}` does not go with `{option.beside}`: {option.why_beside}."
        for option in OPTIONS
        if option.beside
    ]
    return "\n".join(line.rstrip() for line in lines)
