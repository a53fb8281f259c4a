"""Alarms that the centre raises itself: on the record plane, beside those of nodes, for the domain's operator."""

from __future__ import annotations

from typing import Final

from daitn.base.ids import CENTER
from daitn.control_center.node_records import NodeRecorded, NodeRecords
from daitn.control_center.turn import Turn
from daitn.wire.oam_records import Alarm

SERIES_NS: Final = 1
"""Names the centre's own series of records, which is one for ever."""


class CenterAlarms:
    """See the module's docstring."""

    def __init__(self, records: NodeRecords) -> None:
        self._records = records

    def sound(self, turn: Turn, name: str, text: str) -> None:
        """Raise an alarm; a newer one of that name replaces it. Texts are cut to what a record holds."""
        alarm = Alarm(name=name[:64], text=text[:2048], raised_ns=turn.now_ns)
        first = self._records.held(CENTER, SERIES_NS) + 1
        turn.record(NodeRecorded(node=CENTER, since_ns=SERIES_NS, first=first, entries=(alarm,), at_ns=turn.now_ns))
