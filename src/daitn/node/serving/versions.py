"""New versions of models that are tried beside the old ones: which queries ask them first."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from daitn.base.ids import ModelName
from daitn.descriptors.serving import ServedModel


class Versions:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._versions: dict[ModelName, ServedModel] = {}
        self._random = random.Random()

    def follow(self, models: Sequence[ServedModel]) -> None:
        """These are served now: new versions of models are asked by their share from now on."""
        self._versions = {one.canary.model: one for one in models if one.canary is not None and one.routes}

    def __contains__(self, model: ModelName) -> bool:
        return model in self._versions

    def newer(self, model: str, session: str) -> str | None:
        """The new version that a query shall ask first. Queries of a session all ask the same."""
        version = self._versions.get(ModelName(model))
        if version is None or version.canary is None:
            return None
        if session:
            digest = hashlib.blake2b(session.encode(), digest_size=8).digest()
            drawn = int.from_bytes(digest, "big") / 2.0**64
        else:
            drawn = self._random.random()
        return version.model if drawn < version.canary.share else None
