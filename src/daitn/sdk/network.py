"""The network as a model owner's program sees it: connect with a token, submit a model and a goal, get a job.

    net = daitn.connect()                      # the token, or its file, is in $DAITN_TOKEN
    job = net.train(model, contract="contract.json", targets=["accuracy >= 95%"], deadline="1h", purpose="diagnosis")
    for status in job.watch():
        print(status.phase, status.visits)
    result = job.result()
    model = result.model()

Synchronous on purpose: notebooks and scripts are. A model is packed and signed here; only chunks that the domain does
not hold yet are sent.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import msgspec

from daitn.base.errors import InputError
from daitn.base.ids import ArtifactId
from daitn.control_center.node_records import ShownRecord
from daitn.descriptors.contract import DataContract, Task
from daitn.descriptors.job import JobStatus
from daitn.descriptors.key_terms import KeyTerms
from daitn.descriptors.links import LinkShown
from daitn.descriptors.request import Budget, Hyperparameters, Request, Selection
from daitn.descriptors.terminals import Role
from daitn.node.http import bodies
from daitn.node.http.owner_token import PREFIX, parse_owner_token
from daitn.sdk.deployments import Deployments
from daitn.sdk.jobs import Job
from daitn.sdk.map_questions import MapQuestions
from daitn.sdk.requests import Duration, Targets, make_request, read_contract
from daitn.sdk.transport import Transport, quoted

if TYPE_CHECKING:
    import torch
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from daitn.artifacts.layout import Buffer
    from daitn.artifacts.manifest import ChunkRef
    from daitn.artifacts.package import Package
    from daitn.sdk.pending import PendingKeys

TOKEN_VARIABLE: Final = "DAITN_TOKEN"
TOKEN_FILE_BYTES: Final = 4096
UPLOADS: Final = 4
"""Chunks sent at a time: hides the round trip; more would only share the same uplink."""


class Uploaded(NamedTuple):
    """How far an upload is. `total_bytes` counts only what has to be sent."""

    sent_bytes: int
    total_bytes: int
    package_bytes: int


Progress = Callable[[Uploaded], None]
KeyOf = Callable[[Request], str]
"""The idempotency key of a request."""


def connect(token: str | Path | None = None, *, patience_s: float = 10.0) -> Network:
    """A network by an owner's token: the token itself, the path of a file that holds it, or None for `$DAITN_TOKEN`.

    Nothing is called yet. `patience_s`: how long a call is repeated while the domain does not answer.
    """
    return Network(Transport(parse_owner_token(_read_token(token)), patience_s=patience_s))


def _read_token(token: str | Path | None) -> str:
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise InputError(
                "no token is given", todo=f"give connect() an owner's token or its file, or set {TOKEN_VARIABLE}"
            )
    if isinstance(token, str) and token.strip().startswith(PREFIX):
        return token
    path = Path(token).expanduser()
    try:
        with path.open("r", encoding="ascii") as file:
            return file.read(TOKEN_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not text"
        # What was given may be a mistyped token: it is not shown.
        raise InputError(
            f"what was given is neither an owner's token nor a file that can be read ({said})",
            todo=f"a token starts with {PREFIX!r}",
        ) from None


def default_key_file() -> Path:
    """Where the owner's signing key is kept, unless another is given."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "daitn" / "signing.key"


class Network:
    """One domain, as one owner sees it. See the module's docstring; a context manager, and thread-safe."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def domain(self) -> str:
        """The domain's name."""
        return self._transport.token.domain

    def pending_keys(self, folder: Path | None = None) -> PendingKeys:
        """Keys of submissions of this token's owner that nobody was told of yet, kept in `folder`."""
        from daitn.sdk.pending import PendingKeys, default_folder

        return PendingKeys(folder or default_folder(), str(self._transport.token))

    def __repr__(self) -> str:
        return f"Network({self.domain} at {self._transport.token.address})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let connections go."""
        self._transport.close()

    # --- training ---------------------------------------------------------------------------------------------------

    def train(
        self,
        model: torch.nn.Module | str | Path,
        *,
        targets: Targets,
        deadline: Duration,
        purpose: str,
        contract: DataContract | str | Path | None = None,
        task: Task | DataContract | str | Path | None = None,
        data: Selection | Sequence[str] | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        method: str = "",
        hyperparameters: Hyperparameters | Mapping[str, Any] | None = None,
        name: str | None = None,
        example: Mapping[str, torch.Tensor] | None = None,
        dynamic: Mapping[str, tuple[str | None, ...]] | None = None,
        tokenizer: bytes | Path | None = None,
        key: Ed25519PrivateKey | Path | None = None,
        accept_counter_offer: bool = False,
        progress: Progress | None = None,
        idempotency_key: str | KeyOf | None = None,
        variants: Sequence[str | Path] = (),
        catalogue: bool = False,
        **others: Any,
    ) -> Job:
        """Submit a model and a goal; returns once the domain holds both, before it is assessed.

        `model`: an `nn.Module` with its `contract` (value, or path of its JSON), or the directory of a package. `task`
        replaces the contract's own, or may stand for the contract. `key` signs the package (made in the owner's
        configuration folder if there is none). `others`: fields of `Request` such as `raw_records`, `trust_floor`,
        `chance_floor`, `allow_probe`, `until_deadline`, `secure_aggregation`, `compression`, `privacy`, `tuning`,
        `seed`, `priority`. `variants`: directories of other packages for the same contract and key, tried where this
        model is not believed to reach its goal (`Job.take_advice`); with `catalogue` the network's own models for the
        contract too (`daitn.catalogue_models`; else `Job.ask_catalogue` after a refusal). The same `idempotency_key`
        twice is one job; a function makes one of the request. InputError for what cannot be right.
        """
        from daitn.artifacts.package import read_package

        contract, task = _sort_out(contract, task)
        if isinstance(model, str | Path):
            package = read_package(Path(model))
            artifact = self._upload(package, progress)
            chosen = name or package.manifest.name
        else:
            if contract is None:
                raise InputError("a module needs its data contract", todo="give `contract`, a value or a JSON file")
            read = read_contract(contract, task)
            chosen = name or read.name
            tokens = tokenizer.read_bytes() if isinstance(tokenizer, Path) else tokenizer
            package, artifact = self._pack_and_upload(model, read, chosen, example, dynamic, tokens, key, progress)
        declared = [self._upload(read_package(Path(one)), progress) for one in variants]
        if catalogue:
            parts, signer = package.parts, package.manifest.signer
            declared += self.upload_catalogue(parts, signer, key=key, declared=len(declared), progress=progress)
        others["variants"] = declared or None
        request = make_request(
            artifact,
            name=_plain_name(chosen),
            targets=targets,
            deadline=deadline,
            purpose=purpose,
            data=data,
            budget=budget,
            hyperparameters=hyperparameters,
            method=method,
            accept_counter_offer=accept_counter_offer,
            **others,
        )
        return self.submit(request, idempotency_key(request) if callable(idempotency_key) else idempotency_key)

    def submit(self, request: Request, idempotency_key: str | None = None) -> Job:
        """Submit a request whose package the domain holds."""
        status = self._transport.call(
            "POST",
            "/v1/jobs",
            JobStatus,
            request,
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
        )
        return Job(self, self._transport, status.job)

    def upload(self, folder: Path, progress: Progress | None = None) -> ArtifactId:
        """Check a package and give the domain what it lacks of it."""
        from daitn.artifacts.package import read_package

        return self._upload(read_package(folder), progress)

    def upload_catalogue(
        self,
        parts: Mapping[str, Buffer],
        signer: str,
        *,
        key: Ed25519PrivateKey | Path | None = None,
        declared: int = 0,
        progress: Progress | None = None,
    ) -> list[ArtifactId]:
        """Pack the catalogue's models for the contract of a package (its `parts`), and give the domain what it lacks of
        them (`daitn.sdk.catalogue`). InputError where `key` (default: the owner's) is not `signer`'s."""
        from daitn.artifacts.package import read_package
        from daitn.sdk.catalogue import owner_key, pack_catalogue

        loaded = owner_key(key or default_key_file(), signer)
        with tempfile.TemporaryDirectory(prefix="daitn-") as folder:
            packed = pack_catalogue(parts, Path(folder), key=loaded, declared=declared)
            return [self._upload(read_package(one), progress) for one in packed]

    def job(self, job: str) -> Job:
        """A job by its id; InputError if it is not yours."""
        status = self._transport.call("GET", f"/v1/jobs/{quoted(job)}", JobStatus)
        return Job(self, self._transport, status.job)

    def jobs(self, limit: int = 100) -> tuple[JobStatus, ...]:
        """Your jobs, newest first."""
        return self._transport.call("GET", f"/v1/jobs?limit={limit}", tuple[JobStatus, ...])

    # --- the domain -------------------------------------------------------------------------------------------------

    def nodes(self) -> tuple[bodies.NodeOnMap, ...]:
        """The map: all nodes of the domain."""
        return self._transport.call("GET", "/v1/nodes", tuple[bodies.NodeOnMap, ...])

    @property
    def map(self) -> MapQuestions:
        """For operators: questions on the map, once, in SQL, or saved and watched."""
        return MapQuestions(self._transport)

    @property
    def models(self) -> Deployments:
        """Models that are served: deployed, watched, withdrawn."""
        return Deployments(self._transport, self.upload)

    def counters(self) -> tuple[bodies.ProcessCounters, ...]:
        """For operators: what was refused, lost and dropped, at the centre and at every node."""
        return self._transport.call("GET", "/v1/counters", tuple[bodies.ProcessCounters, ...])

    def links(self) -> tuple[LinkShown, ...]:
        """For operators: every link between the domain's nodes, as they said last."""
        return self._transport.call("GET", "/v1/links", tuple[LinkShown, ...])

    def tools(self) -> bodies.ToolsShown:
        """For operators: what the services of the tools layer know of each node."""
        return self._transport.call("GET", "/v1/tools", bodies.ToolsShown)

    def make_join_token(self, operator: str, roles: Sequence[str] = (), *, valid_s: float = 86_400.0) -> str:
        """For operators: a one-time token for `daitn join`."""
        asked: dict[str, Any] = {"operator": operator, "valid_s": valid_s}
        if roles:
            known = {role.value for role in Role}
            unknown = [role for role in roles if role not in known]
            if unknown:
                raise InputError(f"no such role: {', '.join(unknown)}", todo=f"roles are {', '.join(sorted(known))}")
            asked["roles"] = list(roles)
        return self._transport.call("POST", "/v1/tokens/join", bodies.TokenMade, asked).token

    def make_owner_token(
        self,
        owner: str,
        scopes: Sequence[str] = ("train",),
        *,
        valid_s: float | None = None,
        terms: KeyTerms | None = None,
    ) -> str:
        """For operators: a token for a model owner (`train`), whoever asks models (`ask`, on such terms) or another
        operator (`operate`)."""
        asked: dict[str, Any] = {"owner": owner, "scopes": list(scopes)}
        if terms is not None:
            asked["terms"] = terms
        if valid_s is not None:
            asked["valid_s"] = valid_s
        return self._transport.call("POST", "/v1/tokens/owner", bodies.TokenMade, asked).token

    def owner_tokens(self) -> tuple[bodies.TokenNamed, ...]:
        """For operators: all owners' tokens, without their secrets."""
        return self._transport.call("GET", "/v1/tokens/owner", tuple[bodies.TokenNamed, ...])

    def revoke_owner_token(self, token_id: str) -> bodies.TokenNamed:
        """For operators: end an owner's token by its id."""
        return self._transport.call("DELETE", f"/v1/tokens/owner/{quoted(token_id)}", bodies.TokenNamed)

    def set_key_terms(self, token_id: str, terms: KeyTerms) -> bodies.TokenNamed:
        """For operators: what a key may ask of models from now on, in place of all that it might."""
        return self._transport.call("PUT", f"/v1/tokens/owner/{quoted(token_id)}/terms", bodies.TokenNamed, terms)

    def expel(self, node: str, reason: str = "") -> None:
        """For operators: burn a node's slot and take it off the map."""
        body = msgspec.json.encode(bodies.ExpelAsked(reason=reason))
        self._transport.call_bytes("POST", f"/v1/nodes/{quoted(node)}/expel", body)

    def records(self, after: int = 0) -> tuple[ShownRecord, ...]:
        """For operators: what nodes reported, beyond a number: how each visit ended at its site, and alarms."""
        found: list[ShownRecord] = []
        while True:
            last = found[-1].number if found else after
            page = self._transport.call("GET", f"/v1/records?after={last}", tuple[ShownRecord, ...])
            found += page
            if len(page) < bodies.PAGE:
                return tuple(found)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _pack_and_upload(
        self,
        model: torch.nn.Module,
        contract: DataContract,
        name: str,
        example: Mapping[str, torch.Tensor] | None,
        dynamic: Mapping[str, tuple[str | None, ...]] | None,
        tokenizer: bytes | None,
        key: Ed25519PrivateKey | Path | None,
        progress: Progress | None,
    ) -> tuple[Package, ArtifactId]:
        from daitn.artifacts.package import read_package
        from daitn.artifacts.signatures import load_key, load_or_create_key
        from daitn.sdk.packaging import package_module

        if isinstance(key, Path):
            key = load_key(key)
        with tempfile.TemporaryDirectory(prefix="daitn-") as folder:
            package_module(
                model,
                contract,
                Path(folder) / "package",
                key=key or load_or_create_key(default_key_file()),
                name=name,
                example=example,
                dynamic=dynamic,
                tokenizer=tokenizer,
            )
            package = read_package(Path(folder) / "package")
            return package, self._upload(package, progress)

    def _upload(self, package: Package, progress: Progress | None) -> ArtifactId:
        from daitn.artifacts.codec import encode_manifest
        from daitn.sdk.packaging import chunks_of

        refs = package.manifest.all_chunks()
        missing = self._missing(refs)
        size = {ref.id: ref.size for ref in refs}
        total, sent = sum(size[chunk] for chunk in missing), 0
        report = progress or (lambda _: None)
        report(Uploaded(0, total, sum(size.values())))

        def wanted() -> Iterator[tuple[str, bytes]]:
            left = set(missing)
            for ref, data in chunks_of(package) if left else ():
                if ref.id in left:
                    left.discard(ref.id)
                    yield ref.id, data

        with ThreadPoolExecutor(UPLOADS, thread_name_prefix="upload") as pool:
            for chunk in _few_at_a_time(pool, self._put, wanted()):
                sent += size[chunk]
                report(Uploaded(sent, total, sum(size.values())))
        answer = self._transport.call_bytes("POST", "/v1/packages", encode_manifest(package.manifest))
        artifact = msgspec.json.decode(answer, type=bodies.PackageStored).artifact
        if artifact != package.artifact:
            raise InputError(f"the domain calls the package {artifact}, here it is {package.artifact}")
        return artifact

    def _missing(self, refs: Sequence[ChunkRef]) -> set[str]:
        missing: set[str] = set()
        for start in range(0, len(refs), bodies.CHUNKS_ASKED):
            asked = bodies.ChunksAsked(
                chunks=tuple((ref.id, ref.size) for ref in refs[start : start + bodies.CHUNKS_ASKED])
            )
            answer = self._transport.call("POST", "/v1/packages/chunks/missing", bodies.MissingChunks, asked)
            missing.update(answer.missing)
        return missing

    def _put(self, chunk: tuple[str, bytes]) -> str:
        self._transport.call_bytes("PUT", f"/v1/packages/chunks/{chunk[0]}", chunk[1])
        return chunk[0]


def _few_at_a_time(
    pool: ThreadPoolExecutor, send: Callable[[tuple[str, bytes]], str], chunks: Iterator[tuple[str, bytes]]
) -> Iterator[str]:
    """Results of `send`, with at most `UPLOADS` chunks read ahead, so that memory does not grow with the model."""
    running: list[Future[str]] = []
    for chunk in chunks:
        running.append(pool.submit(send, chunk))
        if len(running) >= UPLOADS:
            yield running.pop(0).result()
    for one in running:
        yield one.result()


def _sort_out(
    contract: DataContract | str | Path | None, task: Task | DataContract | str | Path | None
) -> tuple[DataContract | str | Path | None, Task | None]:
    """Contract and task, where `task` may have been given as a whole contract."""
    if isinstance(task, DataContract | str | Path):
        if contract is not None:
            raise InputError("`task` is a contract, and `contract` is one too", todo="give one of them")
        return task, None
    return contract, task


def _plain_name(name: str) -> str:
    """A name as ids of jobs allow it: lower case, other characters as dashes."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63]
    return plain or "job"
