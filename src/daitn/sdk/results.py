"""What comes of a job: the package with the trained model, and how it stands against each target."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daitn.artifacts.manifest import Manifest
from daitn.artifacts.package import read_package
from daitn.base.errors import BugError, InputError
from daitn.base.ids import ArtifactId
from daitn.descriptors.contract import DataContract
from daitn.descriptors.job import JobStatus, TargetState
from daitn.sdk.packaging import contract_of, load_module, package_from_chunks
from daitn.sdk.predict import Prediction, predict

if TYPE_CHECKING:
    import torch


class Result:
    """A fetched result; `folder` is a package directory. One fetched without a folder is removed with the object."""

    def __init__(self, status: JobStatus, artifact: ArtifactId, folder: Path, kept: Any = None) -> None:
        self.status = status
        self.artifact = artifact
        self.folder = folder
        self._temporary = kept

    @classmethod
    def fetch(
        cls,
        status: JobStatus,
        folder: str | Path | None,
        manifest_of: Callable[[str], Manifest],
        chunk_of: Callable[[str], bytes],
    ) -> Result:
        """Fetch the best model of an ended job; chunks are checked by digest, the whole by its id."""
        if status.model is None:
            raise InputError(f"job {status.job} has no model", ids={"job": status.job})
        kept = tempfile.TemporaryDirectory(prefix="daitn-") if folder is None else None
        where = Path(kept.name) / "package" if kept is not None else Path(folder or "")
        artifact = package_from_chunks(manifest_of(status.model), chunk_of, where)
        if artifact != status.model:
            raise BugError(f"package {status.model} was written as {artifact}")
        return cls(status, artifact, where, kept)

    def __repr__(self) -> str:
        return f"Result({self.status.job}, {'met' if self.met else 'not met'}, {self.folder})"

    @property
    def met(self) -> bool:
        """Whether every target is reached by its point estimate."""
        return all(target.met for target in self.status.targets)

    @property
    def targets(self) -> tuple[TargetState, ...]:
        """How the model stands against each target, beside the untrained one."""
        return self.status.targets

    def contract(self) -> DataContract:
        """The data contract of the model."""
        return contract_of(read_package(self.folder))

    def model(self) -> torch.nn.Module:
        """The trained model in evaluation mode. Called with the contract's input names, it returns named outputs."""
        return load_module(read_package(self.folder))

    def predict(self, data: str | Path | Mapping[str, Any]) -> list[Prediction]:
        """Predictions for the rows of a file (CSV, NPZ, …), or for columns given as lists or arrays."""
        return list(self.predict_rows(data))

    def predict_rows(self, data: str | Path | Mapping[str, Any]) -> Iterator[Prediction]:
        """As `predict`, row by row in constant memory."""
        return predict(self.folder, data if isinstance(data, Mapping) else Path(data))
