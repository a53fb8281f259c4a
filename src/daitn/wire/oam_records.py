"""Link to OAM, record plane: what must be known afterwards goes to the centre, durable, in order, acknowledged.

A terminal numbers its records from 1 and sends them until the centre says that it has them; the centre keeps each once.
`since_ns`, the moment of its first record, names the series: a terminal that lost its journal begins another.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from daitn.base.effects import Message
from daitn.base.ids import DataSetId, JobId, VisitId

RECORDS_MOST: Final = 64
"""Records in one message: 64 with the longest texts are a quarter of the largest message."""

Sequence = Annotated[int, msgspec.Meta(ge=0)]
Moment = Annotated[int, msgspec.Meta(ge=0)]


class VisitOver(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry", tag="visit_over"):
    """How a visit ended at its site: the audit of each use of a data set, whatever the centre believes of it."""

    visit: VisitId
    job: JobId
    fence: Annotated[int, msgspec.Meta(ge=1)]
    dataset: DataSetId | None
    """Data set of this site that was used, if one was."""
    taken_ns: Moment
    over_ns: Moment
    how: Literal["acknowledged", "fenced", "cancelled", "lapsed"]


class Alarm(msgspec.Struct, frozen=True, kw_only=True, tag_field="entry", tag="alarm"):
    """Something at a node that its operator must see to."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    """What it is about; a newer alarm of that name replaces it."""
    text: Annotated[str, msgspec.Meta(max_length=2048)]
    raised_ns: Moment


Entry = VisitOver | Alarm


class RecordsReported(Message, frozen=True, kw_only=True, tag="records_reported"):
    """Terminal → OAM at the centre: my records from number `first` on. Repeated until `RecordsKept`."""

    since_ns: Moment
    first: Annotated[int, msgspec.Meta(ge=1)]
    entries: Annotated[tuple[Entry, ...], msgspec.Meta(min_length=1, max_length=RECORDS_MOST)]


class RecordsKept(Message, frozen=True, kw_only=True, tag="records_kept"):
    """OAM at the centre → terminal: all of that series up to this number are in the journal."""

    since_ns: Moment
    up_to: Sequence
