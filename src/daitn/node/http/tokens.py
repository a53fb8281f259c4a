"""The token book: which secrets open the owner's door, for whom and for what.

Only a keyed digest of each secret is kept, in a SQLite file readable by its owner only: whoever copies the file cannot
call. A secret is 32 random bytes, so one hash is enough (slow hashes protect short passwords). A revoked token stops
working with the next request, also where another process revoked it: nothing is cached.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3
from sqlalchemy import (
    Column,
    ColumnElement,
    Engine,
    Float,
    LargeBinary,
    MetaData,
    Select,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from daitn.base.errors import InputError, UnavailableError
from daitn.base.ids import DomainId, OwnerId
from daitn.base.names import check_name
from daitn.descriptors.key_terms import KeyTerms, check_terms
from daitn.descriptors.serving import ApiKey
from daitn.node.http.owner_token import SECRET_BYTES, OwnerToken, parse_owner_token
from daitn.node.pki import fingerprint_of

TOKENS: Final = 100_000
"""Tokens in one book; a domain with a thousand owners and a new token a month fills it in eight years."""

VALID_S_MAX: Final = 10 * 366 * 86_400.0
"""Longest life of a token: as long as the authority's."""

ID_CHARS: Final = 12
"""Digits of the digest that name a token for people: 48 bits tell 100,000 tokens apart."""

_DIGEST_CONTEXT: Final = "daitn 1 owner token"
_BUSY_MS: Final = 5_000

_metadata = MetaData()
_tokens = Table(
    "owner_token",
    _metadata,
    Column("digest", String(64), primary_key=True),
    Column("owner", String(63), nullable=False),
    Column("scopes", String(200), nullable=False),
    Column("created_unix_s", Float, nullable=False),
    Column("expires_unix_s", Float, nullable=False),
    Column("revoked_unix_s", Float, nullable=True),
)


_terms = Table(
    "key_terms",
    _metadata,
    Column("digest", String(64), primary_key=True),
    Column("terms", LargeBinary, nullable=False),
)
"""Of keys that have any: a table of its own, so that a book made before there were terms goes on."""


class Scope(StrEnum):
    """What a token may be used for: submit and follow jobs; ask models at gateways; run the domain."""

    TRAIN = "train"
    ASK = "ask"
    OPERATE = "operate"


class TokenFault(StrEnum):
    """Why a token opens nothing."""

    NONE = "none"
    MALFORMED = "malformed"
    OTHER_DOMAIN = "other-domain"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    REVOKED = "revoked"


class TokenHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Whose token it is. `id` names the token, and tells nothing about its secret."""

    id: str
    owner: OwnerId
    scopes: frozenset[Scope]
    created_unix_s: float
    expires_unix_s: float
    revoked_unix_s: float | None = None
    terms: KeyTerms = KeyTerms()
    """What it may ask of models."""


class TokenBook:
    """See the module's docstring. `address` is the door's `host:port`, `authority_pem` the domain's certificate."""

    def __init__(
        self,
        path: Path,
        *,
        address: str,
        domain: DomainId,
        authority_pem: bytes,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.address = address
        self.domain = domain
        self.authority_pem = authority_pem
        self._fingerprint = bytes.fromhex(fingerprint_of(authority_pem))
        self._clock = clock
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise UnavailableError(f"the token book {path} cannot be opened: {error.strerror}") from None
        self._engine: Engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_MS / 1000})
        event.listen(self._engine, "connect", _set_pragmas)
        with _database_errors():
            _metadata.create_all(self._engine)

    def create(
        self, owner: str, scopes: Sequence[Scope | str], *, valid_s: float = VALID_S_MAX, terms: KeyTerms | None = None
    ) -> str:
        """A new token for `owner`; it is shown once and kept nowhere. `terms`: what it may ask of models. InputError
        for an unknown scope or name, or terms that cannot be."""
        check_name("owner", owner)
        wanted = _read_scopes(scopes)
        if terms is not None:
            _check_terms(terms, wanted)
        if not 0 < valid_s <= VALID_S_MAX:
            raise InputError(f"a token valid for {valid_s:g} s is not possible", todo=f"give 1 to {VALID_S_MAX:.0f} s")
        secret, now = secrets.token_bytes(SECRET_BYTES), self._clock()
        row = {
            "digest": digest_of_secret(secret),
            "owner": owner,
            "scopes": " ".join(sorted(wanted)),
            "created_unix_s": now,
            "expires_unix_s": now + valid_s,
            "revoked_unix_s": None,
        }
        with _database_errors(), self._engine.begin() as connection:
            if (connection.scalar(select(func.count()).select_from(_tokens)) or 0) >= TOKENS:
                raise InputError(f"the token book holds {TOKENS} tokens, its limit", todo="start a new book")
            connection.execute(insert(_tokens).values(row))
            if terms is not None:
                connection.execute(insert(_terms).values(digest=row["digest"], terms=msgspec.json.encode(terms)))
        return str(OwnerToken(address=self.address, domain=self.domain, fingerprint=self._fingerprint, secret=secret))

    def name_of(self, token: str) -> str:
        """The id a token has if it is in the book, found without looking there; empty for what is no token of ours."""
        try:
            parsed = parse_owner_token(token)
        except InputError:
            return ""
        return digest_of_secret(parsed.secret)[:ID_CHARS] if parsed.domain == self.domain else ""

    def look_up(self, token: str) -> TokenHolder | TokenFault:
        """Whose token this is, or why it is nobody's. One look in the book."""
        try:
            parsed = parse_owner_token(token)
        except InputError:
            return TokenFault.MALFORMED
        if parsed.domain != self.domain:
            return TokenFault.OTHER_DOMAIN
        with _database_errors(), self._engine.connect() as connection:
            found = connection.execute(_with_terms().where(_tokens.c.digest == digest_of_secret(parsed.secret))).first()
        if found is None:
            return TokenFault.UNKNOWN
        holder = _holder(found)
        if holder.revoked_unix_s is not None:
            return TokenFault.REVOKED
        return TokenFault.EXPIRED if holder.expires_unix_s <= self._clock() else holder

    def set_terms(self, token_or_id: str, terms: KeyTerms) -> TokenHolder:
        """Give a key other terms, in place of all that it had. InputError if there is none that may ask models, or for
        terms that cannot be."""
        chosen, digest = _chosen(token_or_id)
        with _database_errors(), self._engine.begin() as connection:
            found = connection.execute(select(_tokens).where(chosen, _tokens.c.revoked_unix_s.is_(None))).first()
            if found is None:
                raise InputError(f"there is no key {digest[:ID_CHARS]} that is good", todo="`daitn key list` shows ids")
            _check_terms(terms, {Scope(scope) for scope in found.scopes.split()})
            connection.execute(delete(_terms).where(_terms.c.digest == found.digest))
            connection.execute(insert(_terms).values(digest=found.digest, terms=msgspec.json.encode(terms)))
            return _holder(connection.execute(_with_terms().where(_tokens.c.digest == found.digest)).one())

    def revoke(self, token_or_id: str) -> TokenHolder:
        """End a token, given whole or by its id; ending it again is no error. InputError if there is none."""
        chosen, digest = _chosen(token_or_id)
        with _database_errors(), self._engine.begin() as connection:
            connection.execute(
                update(_tokens).where(chosen, _tokens.c.revoked_unix_s.is_(None)).values(revoked_unix_s=self._clock())
            )
            found = connection.execute(_with_terms().where(chosen)).first()
        if found is None:
            raise InputError(f"there is no token {digest[:ID_CHARS]}", todo="`daitn token list` shows ids")
        return _holder(found)

    def holders(self) -> tuple[TokenHolder, ...]:
        """All tokens ever made, newest first."""
        with _database_errors(), self._engine.connect() as connection:
            rows = connection.execute(_with_terms().order_by(_tokens.c.created_unix_s.desc())).all()
        return tuple(_holder(row) for row in rows)

    def keys(self, scope: Scope, most: int) -> tuple[ApiKey, ...]:
        """Digests of the tokens with a scope that are good now, the newest `most` of them."""
        live = (_tokens.c.revoked_unix_s.is_(None), _tokens.c.expires_unix_s > self._clock())
        wanted = _tokens.c.scopes.contains(scope.value, autoescape=True)
        chosen = _with_terms().where(wanted, *live).order_by(_tokens.c.created_unix_s.desc()).limit(most)
        with _database_errors(), self._engine.connect() as connection:
            rows = connection.execute(chosen).all()
        return tuple(
            ApiKey(
                digest=row.digest,
                owner=OwnerId(row.owner),
                expires_unix_s=row.expires_unix_s,
                terms=_terms_of(row),
            )
            for row in rows
            if scope.value in row.scopes.split()
        )

    def close(self) -> None:
        """Let the file go."""
        self._engine.dispose()


def digest_of_secret(secret: bytes) -> str:
    """What is kept of a secret: it tells nothing of it."""
    return blake3(secret, derive_key_context=_DIGEST_CONTEXT).hexdigest()


def _read_scopes(scopes: Sequence[Scope | str]) -> set[Scope]:
    known = {scope.value for scope in Scope}
    unknown = [str(scope) for scope in scopes if str(scope) not in known]
    if unknown or not scopes:
        raise InputError(
            f"scopes {', '.join(unknown) or 'none'} are not possible", todo=f"give some of {sorted(known)}"
        )
    return {Scope(scope) for scope in scopes}


def _check_terms(terms: KeyTerms, scopes: Collection[Scope]) -> None:
    if Scope.ASK not in scopes and terms != KeyTerms():
        raise InputError("terms of asking models are given for a token that may not ask", todo="give it the scope ask")
    check_terms(terms)


def _chosen(token_or_id: str) -> tuple[ColumnElement[bool], str]:
    """Which row a token or its id means, and the digest or its beginning."""
    try:
        digest = digest_of_secret(parse_owner_token(token_or_id).secret)
    except InputError:
        digest = token_or_id.strip().lower()
    if len(digest) < ID_CHARS or not digest.isalnum():
        raise InputError(f"{token_or_id[:20]!r} is neither a token nor its id", todo="`daitn token list` shows ids")
    return _tokens.c.digest.startswith(digest, autoescape=True), digest


def _with_terms() -> Select[Any]:
    return select(_tokens, _terms.c.terms).join(_terms, _terms.c.digest == _tokens.c.digest, isouter=True)


def _terms_of(row: Any) -> KeyTerms:
    return KeyTerms() if row.terms is None else msgspec.json.decode(row.terms, type=KeyTerms)


def _holder(row: Any) -> TokenHolder:
    return TokenHolder(
        id=row.digest[:ID_CHARS],
        owner=OwnerId(row.owner),
        scopes=frozenset(Scope(scope) for scope in row.scopes.split()),
        created_unix_s=row.created_unix_s,
        expires_unix_s=row.expires_unix_s,
        revoked_unix_s=row.revoked_unix_s,
        terms=_terms_of(row),
    )


def _set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # A revocation that a power cut undoes would be worse than a millisecond.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise UnavailableError(f"the token book cannot be used: {error.__class__.__name__}") from error
