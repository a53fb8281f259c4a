"""The slot book: which slot of a domain is taken, left or burned, and what became of each join token.

Enrolment turns on two facts that must never be wrong, whatever crashes or races: a token is redeemed once, and a slot
is never handed out twice. Both are one SQLite transaction that takes the write lock first (`BEGIN IMMEDIATE`) and is on
disk before it answers. A node that lost the answer may repeat with the same key and gets the same slot: the token is
bound to the key that redeemed it, so a second node with the same token still gets nothing.

Only a hash of a token's secret is kept. A book that leaks lets nobody in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import msgspec
import sqlalchemy as sa

from daitn.base.errors import InputError, PolicyError, UnavailableError
from daitn.base.ids import NodeId, OperatorId
from daitn.node.fabric.access import slot_name

LOCK_S: Final = 10.0
"""Longest wait for the write lock; a redemption holds it for some milliseconds."""


class RefusalReason(StrEnum):
    """Why an enrolment or renewal is refused."""

    UNKNOWN = "unknown"
    USED = "used"
    EXPIRED = "expired"
    ROLE = "role"
    NAME = "name"
    FULL = "full"
    LEFT = "left"
    BURNED = "burned"
    KEY = "key"


class EnrolmentRefusedError(PolicyError):
    """An enrolment or renewal was refused; `reason` says which rule."""

    def __init__(self, reason: RefusalReason, what: str, *, todo: str) -> None:
        super().__init__(what, todo=todo)
        self.reason = reason


class SlotState(StrEnum):
    """What became of a slot; there is no way back to free."""

    TAKEN = "taken"
    LEFT = "left"
    BURNED = "burned"


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A slot that was handed out."""

    node: NodeId
    name: str
    """The node's name as its operator gave it, unique among taken slots."""
    operator: OperatorId
    roles: tuple[str, ...]
    key_hash: str
    """SHA-256 of the public key that may hold this slot's certificates."""
    state: SlotState


class SlotBook(Protocol):
    """What enrolment needs to remember; every method is atomic and durable when it returns. Thread-safe."""

    def add_token(self, secret_hash: str, operator: OperatorId, roles: tuple[str, ...], expires_s: float) -> None:
        """Remember a token: who it is for, the roles it allows, and when it ends (seconds since 1970)."""
        ...

    def redeem(self, secret_hash: str, *, name: str, roles: tuple[str, ...], key_hash: str) -> Slot:
        """Hand out a slot for a token; EnrolmentRefusedError with its reason otherwise.

        No roles means all the token allows. The same key with the same name may redeem again and gets the same slot.
        """
        ...

    def renewable(self, node: NodeId, key_hash: str) -> Slot:
        """The slot, if it is taken and held by this key; EnrolmentRefusedError otherwise."""
        ...

    def slots(self) -> list[Slot]:
        """All slots ever handed out, in order."""
        ...

    def leave(self, node: NodeId) -> None:
        """The node left in peace: no more certificates, the slot is not handed out again."""
        ...

    def burn(self, node: NodeId) -> None:
        """The node is not trusted any more: as `leave`, and shown as such."""
        ...


_metadata = sa.MetaData()
_tokens = sa.Table(
    "tokens",
    _metadata,
    sa.Column("secret_hash", sa.Text, primary_key=True),
    sa.Column("operator", sa.Text, nullable=False),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
    sa.Column("node", sa.Text),
)
_slots = sa.Table(
    "slots",
    _metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("node", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("operator", sa.Text, nullable=False),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("key_hash", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)


class SqliteSlotBook:
    """The slot book in one SQLite file."""

    def __init__(self, path: Path, *, slots: int) -> None:
        """Open or create it; `slots` is how many the routers of the domain know."""
        self._limit = slots
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": LOCK_S})
        sa.event.listen(self._engine, "connect", _prepare)
        try:
            with self._writing() as connection:
                _metadata.create_all(connection)
        except sa.exc.OperationalError as fault:
            raise UnavailableError(f"slot book {path} cannot be opened: {fault.orig}") from fault

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add_token(self, secret_hash: str, operator: OperatorId, roles: tuple[str, ...], expires_s: float) -> None:
        """See `SlotBook.add_token`."""
        row = {"secret_hash": secret_hash, "operator": operator, "roles": json.dumps(roles), "expires_s": expires_s}
        with self._writing() as connection:
            connection.execute(sa.insert(_tokens).values(row))

    def redeem(self, secret_hash: str, *, name: str, roles: tuple[str, ...], key_hash: str) -> Slot:
        """See `SlotBook.redeem`."""
        with self._writing() as connection:
            token = connection.execute(sa.select(_tokens).where(_tokens.c.secret_hash == secret_hash)).one_or_none()
            if token is None:
                raise EnrolmentRefusedError(
                    RefusalReason.UNKNOWN, "this join token is not known here", todo="ask the operator for a new one"
                )
            if token.node is not None:
                return self._repeat(connection, NodeId(token.node), name, key_hash)
            _check_token(token.expires_s, tuple(json.loads(token.roles)), roles)
            slot = self._hand_out(connection, name, OperatorId(token.operator), roles, token.roles, key_hash)
            used = sa.update(_tokens).where(_tokens.c.secret_hash == secret_hash).values(node=slot.node)
            connection.execute(used)
            return slot

    def renewable(self, node: NodeId, key_hash: str) -> Slot:
        """See `SlotBook.renewable`."""
        with self._engine.connect() as connection:
            slot = _find(connection, node)
        if slot is None:
            raise EnrolmentRefusedError(RefusalReason.UNKNOWN, f"{node} was never enrolled", todo="enrol with a token")
        if slot.state is not SlotState.TAKEN:
            raise EnrolmentRefusedError(
                RefusalReason(slot.state.value), f"{node} has {_PAST[slot.state]}", todo="enrol anew with a join token"
            )
        if slot.key_hash != key_hash:
            raise EnrolmentRefusedError(
                RefusalReason.KEY, f"{node} was enrolled with another key", todo="renew with the node's own key"
            )
        return slot

    def slots(self) -> list[Slot]:
        """See `SlotBook.slots`."""
        with self._engine.connect() as connection:
            return [_slot(row) for row in connection.execute(sa.select(_slots).order_by(_slots.c.number))]

    def leave(self, node: NodeId) -> None:
        """See `SlotBook.leave`."""
        self._end(node, SlotState.LEFT)

    def burn(self, node: NodeId) -> None:
        """See `SlotBook.burn`."""
        self._end(node, SlotState.BURNED)

    def _hand_out(
        self,
        connection: sa.Connection,
        name: str,
        operator: OperatorId,
        roles: tuple[str, ...],
        allowed: str,
        key_hash: str,
    ) -> Slot:
        same_name = sa.select(_slots.c.node).where(_slots.c.name == name, _slots.c.state == SlotState.TAKEN)
        holder = connection.execute(same_name).scalar()
        if holder is not None:
            raise EnrolmentRefusedError(
                RefusalReason.NAME, f"the name {name} is taken by {holder}", todo="choose another name"
            )
        last = connection.execute(sa.select(sa.func.max(_slots.c.number))).scalar() or 0
        if last >= self._limit:
            raise EnrolmentRefusedError(
                RefusalReason.FULL,
                f"all {self._limit} slots of this domain have been handed out",
                todo="the operator restarts the routers with more slots",
            )
        row = {
            "number": last + 1,
            "node": slot_name(last + 1),
            "name": name,
            "operator": operator,
            "roles": json.dumps(roles) if roles else allowed,
            "key_hash": key_hash,
            "state": SlotState.TAKEN.value,
        }
        connection.execute(sa.insert(_slots).values(row))
        slot = _find(connection, slot_name(last + 1))
        assert slot is not None  # inserted above, in this transaction
        return slot

    def _repeat(self, connection: sa.Connection, node: NodeId, name: str, key_hash: str) -> Slot:
        """The answer to a node that redeemed already and lost the answer."""
        slot = _find(connection, node)
        if slot is None or (slot.key_hash, slot.name, slot.state) != (key_hash, name, SlotState.TAKEN):
            raise EnrolmentRefusedError(
                RefusalReason.USED, "this join token was used already", todo="ask the operator for a new one"
            )
        return slot

    def _end(self, node: NodeId, state: SlotState) -> None:
        with self._writing() as connection:
            # A burned slot stays burned, even if its node says goodbye afterwards.
            change = sa.update(_slots).where(_slots.c.node == node, _slots.c.state != SlotState.BURNED)
            connection.execute(change.values(state=state.value))
            if _find(connection, node) is None:
                raise InputError(f"slot {node} was never handed out", todo="list the domain's nodes")

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._engine.connect() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()


_PAST: Final = {SlotState.LEFT: "left the domain", SlotState.BURNED: "been revoked"}


def _prepare(connection: object, _record: object) -> None:
    connection.isolation_level = None  # type: ignore[attr-defined]  # no implicit BEGIN: ours takes the lock first
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _check_token(expires_s: float, allowed: tuple[str, ...], roles: tuple[str, ...]) -> None:
    if time.time() >= expires_s:
        ended = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires_s))
        raise EnrolmentRefusedError(
            RefusalReason.EXPIRED, f"this join token ran out at {ended}", todo="ask the operator for a new one"
        )
    extra = sorted(set(roles) - set(allowed))
    if extra:
        raise EnrolmentRefusedError(
            RefusalReason.ROLE,
            f"this join token does not allow {', '.join(extra)}, only {', '.join(sorted(allowed))}",
            todo="ask for fewer roles, or ask the operator for a token that allows them",
        )


def _find(connection: sa.Connection, node: NodeId) -> Slot | None:
    row = connection.execute(sa.select(_slots).where(_slots.c.node == node)).one_or_none()
    return None if row is None else _slot(row)


def _slot(row: sa.Row[tuple[object, ...]]) -> Slot:
    return Slot(
        node=NodeId(row.node),
        name=row.name,
        operator=OperatorId(row.operator),
        roles=tuple(json.loads(row.roles)),
        key_hash=row.key_hash,
        state=SlotState(row.state),
    )
