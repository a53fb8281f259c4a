"""What each simulated site holds and for which jobs it keeps it: the store, as far as a job can notice it.

The hungriest of stores: whatever no job pins is evicted at once, so that a pin that is missing shows. What is held and
kept survives a crash, like the files it stands for.
"""

from __future__ import annotations

from daitn.base.ids import CENTER, ArtifactId, JobId, NodeId


class Kept:
    """See the module's docstring. `artifacts`: what each node holds."""

    def __init__(self, artifacts: dict[NodeId, set[ArtifactId]]) -> None:
        self._artifacts = artifacts
        self._pins: dict[NodeId, dict[JobId, set[ArtifactId]]] = {}

    def pin(self, node: NodeId, job: JobId, artifact: ArtifactId) -> None:
        """A visit of this job fetched or made an artifact there."""
        self._pins.setdefault(node, {}).setdefault(job, set()).add(artifact)

    def drop(self, node: NodeId, job: JobId, artifacts: tuple[ArtifactId, ...], *, job_ended: bool) -> None:
        """Unpin these, or all of the job."""
        pins = self._pins.setdefault(node, {})
        pins[job] = set() if job_ended else pins.get(job, set()) - set(artifacts)
        if not pins[job]:
            del pins[job]
        self._evict(node)

    def lose(self, node: NodeId) -> None:
        """The disk of a site was replaced by an empty one."""
        self._pins.pop(node, None)
        self._evict(node)

    def jobs(self, node: NodeId) -> tuple[JobId, ...]:
        """The jobs for which a site keeps something; what it keeps for none is evicted."""
        self._evict(node)
        return tuple(sorted(self._pins.get(node, {})))

    def _evict(self, node: NodeId) -> None:
        if node == CENTER:
            return  # packages and delivered models are their owners'
        self._artifacts[node] &= set().union(*self._pins.get(node, {}).values())
