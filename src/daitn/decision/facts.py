"""Facts a decision on a job rests on, besides the view: the package as submitted and what a preflight found."""

from __future__ import annotations

import msgspec

from daitn.descriptors.compression import Compression
from daitn.descriptors.contract import DataContract
from daitn.descriptors.splitting import CutCost
from daitn.descriptors.work import CurvePoint, Measurement, TaughtBy, Training


class PackageFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a package from its manifest alone."""

    contract: DataContract
    kind: str
    signer: str
    payload_bytes: int
    parts_bytes: int
    shapes: str = ""
    """Names its tensors (`learning.numerics.likeness.shapes_digest`)."""
    weights: str = ""
    """Names their numbers (`learning.numerics.likeness.weights_digest`)."""
    name: str = ""
    """As its maker calls it."""

    trained_numbers: int | None = None
    """Of its tensors that training changes; None: not counted, taken for all there are."""

    @property
    def total_bytes(self) -> int:
        """What moves when nothing of it is at the receiver yet."""
        return self.payload_bytes + self.parts_bytes

    def update_bytes(self, compression: Compression | None) -> int:
        """What a visit's update moves to the aggregator beside parts that are there: the weights, or their change."""
        if compression is None:
            return self.payload_bytes
        numbers = self.payload_bytes // 4 if self.trained_numbers is None else self.trained_numbers
        return min(self.payload_bytes, compression.bytes_of(numbers))


class ProbePoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe showed: the submitted model after some steps on one site's records, measured on the test set."""

    records: int
    gap: float
    """How far the site's mix of labels is from that of all: 0 alike, near 1 disjoint."""
    steps: int
    measurements: tuple[Measurement, ...]


class Searched(msgspec.Struct, frozen=True, kw_only=True):
    """What a search for hyper-parameters came to."""

    chosen: Training | None = None
    """None: those of the rules, for the reason given."""
    why: str
    rejected: tuple[str, ...] = ()
    """Others that were tried, the best first, with what they came to."""


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification unit found before any visit; `fault` says why the model does not even load."""

    measurements: tuple[Measurement, ...] = ()
    overfits: bool | None = None
    batch_seconds: float = 0.0
    """Per batch of the preflight's size, at the unit."""
    unit_flops: float = 0.0
    unit_memory_bytes_per_s: float = 0.0
    evaluate_seconds: float = 0.0
    test_records: int = 0
    fault: str = ""
    curve: tuple[CurvePoint, ...] = ()
    """How the model learnt from parts of the test set; empty where that could not be tried."""
    probe: ProbePoint | None = None
    probed: bool = False
    """Whether a probe was made or could not be: there is no further one."""
    cuts: tuple[CutCost, ...] | None = None
    """Where the model could be cut for split learning; empty: nowhere; None: it was not looked for."""
    searched: Searched | None = None
    """What a search for hyper-parameters came to; None: there was none."""
    taught: tuple[TaughtBy, ...] = ()
    """What each data set's sample teaches of every field; empty where that was not tried."""
