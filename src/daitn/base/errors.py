"""Errors, by who must act: the user, the peer, the world, a policy, or we ourselves.

A refusal is a result (`base.outcomes`), not an exception. An error carries the ids it speaks of, the value that was
wrong and what to do about it, because the reader is usually someone who did not write the code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daitn.base.ids import ArtifactId, NodeId


class DaitnError(Exception):
    """Root of all errors of this package.

    `what` is one sentence naming the thing and the offending value; `todo` is the next step for whoever must act;
    `ids` names the subjects (job, visit, node, …).
    """

    kind = "error"

    def __init__(self, what: str, *, todo: str = "", ids: Mapping[str, str] | None = None) -> None:
        self.what = what
        self.todo = todo
        self.ids = dict(ids or {})
        super().__init__(self.render())

    def render(self) -> str:
        """One line: what was wrong, with which ids, and what to do."""
        ids = " [" + ", ".join(f"{key} {value}" for key, value in self.ids.items()) + "]" if self.ids else ""
        return f"{self.what}{ids}" + (f"; {self.todo}" if self.todo else "")


class InputError(DaitnError):
    """The user gave something that cannot be right: a file, a value, a command."""

    kind = "input"


class PeerError(DaitnError):
    """The other side broke the protocol or sent bytes that do not decode; we drop, count, and go on."""

    kind = "peer"


class UnavailableError(DaitnError):
    """The world is unavailable: no link, no disk, no process. Trying again later may work."""

    kind = "unavailable"


class NoRoomError(UnavailableError):
    """There is no room on a disk or in a quota: what was asked for, and what there would be at most, in bytes.

    Apart from other unavailability because the answer is another: not to try again here, but where there is room.
    """

    kind = "no-room"

    def __init__(
        self,
        what: str,
        *,
        required_bytes: int,
        available_bytes: int,
        todo: str = "",
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self.required_bytes = required_bytes
        self.available_bytes = available_bytes
        super().__init__(what, todo=todo, ids=ids)


class NotHeldError(UnavailableError):
    """Whoever was asked answers, and does not hold what was asked for.

    Apart from other unavailability because asking the same node again is in vain: another has to be asked. `artifact`
    and `holders`: who was said to hold what and said that it does not, where that is known.
    """

    kind = "not-held"

    def __init__(
        self,
        what: str,
        *,
        artifact: ArtifactId | None = None,
        holders: Sequence[NodeId] = (),
        todo: str = "",
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self.artifact = artifact
        self.holders = tuple(holders)
        super().__init__(what, todo=todo, ids=ids)


class UnfitError(DaitnError):
    """A model that some other site made cannot be used: it is not what its maker said. `fault`: one of
    `base.metrics.UNFIT`.

    Apart from a peer's error because neither who says so nor who gave it need be at fault: it is for the centre to have
    it looked at, and to go on without the one who made it.
    """

    kind = "unfit"

    def __init__(
        self, what: str, *, artifact: ArtifactId, fault: str, todo: str = "", ids: Mapping[str, str] | None = None
    ) -> None:
        self.artifact = artifact
        self.fault = fault
        super().__init__(what, todo=todo or "the control centre has it looked at, and asks its maker no more", ids=ids)


class PolicyError(DaitnError):
    """A policy or missing right refuses. Trying again changes nothing until the policy does."""

    kind = "policy"


class BugError(DaitnError):
    """We are wrong: an invariant does not hold, a state table has no entry. Carries the history of its subject."""

    kind = "bug"
