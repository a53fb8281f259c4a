"""What is known of one node: its descriptor, and its row of the columns read as attributes.

What changes fast lives in the columns (`topology.columns`) and nowhere else; here it only has names. Each attribute
costs two look-ups, which is nothing beside a decision and too much for a million terminals: those are read as columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from daitn.base.units import NS_PER_S, ns_to_seconds
from daitn.descriptors.fact_kinds import Kind
from daitn.descriptors.machine import EnergySource, Hardware
from daitn.descriptors.places import Place
from daitn.descriptors.terminals import NodeDescriptor
from daitn.topology.columns import FactTable, Value
from daitn.topology.describing import believed
from daitn.topology.paces import Paces
from daitn.topology.taking import CENTER_SOURCE

DEFAULT_BYTES_PER_S: Final = 50e6
"""Assumed rate to a node nothing was moved to yet; half of what a 1 Gbit/s link gives."""

AXES: Final = ("x", "y", "z", "height")
"""Of a place."""

EVIDENCE_MOST: Final = 1e6
"""More is not told apart; the registry refuses it."""


class NodeFacts:
    """See the module's docstring."""

    def __init__(self, table: FactTable, row: int, descriptor: NodeDescriptor, sequence: int) -> None:
        self._table = table
        self.row = row
        """Its row of the table of terminals."""
        self.descriptor = descriptor
        self.sequence = sequence
        """Of the description that is held."""
        self.ended = False
        """While not reachable: whether its process ended, as against a cut link."""
        self.stamped_ns = 0
        """When all facts of its description were last confirmed."""
        self.window_ends_ns: float = 0
        """Until when what the map says of its access's windows holds; infinite where it has none."""
        self.gaps_s: list[float] = []
        """Seconds between signs of life of its visits, the newest `GAPS` of them."""
        self.paces = Paces()
        """What its last visits showed of its compute."""

    def rebind(self, table: FactTable, row: int) -> None:
        """The columns were read anew: this is its row in them."""
        self._table, self.row, self.stamped_ns, self.window_ends_ns = table, row, 0, 0

    @property
    def reachable(self) -> bool:
        """False: its presence vanished and it has not been heard of since."""
        return self._table.value(self.row, "reachable") is True

    @property
    def attached(self) -> bool:
        """False: it says itself that its link to the network falls too often to plan with."""
        return self._table.value(self.row, "attached") is not False

    @property
    def received_ns(self) -> int:
        """When its description was last confirmed; 0 while it comes from the journal."""
        columns = self._table.group("identity")
        return int(columns.received_ns[self.row]) if columns is not None else 0

    @property
    def spoke_ns(self) -> int:
        """When anything came from it."""
        columns = self._table.group("reach")
        return int(columns.generated_ns[self.row]) if columns is not None else 0

    @property
    def heard_ns(self) -> int:
        """When it was last heard of in any way: what is measured of it without a moment of its own is as old."""
        return max(self.spoke_ns, self.received_ns)

    @property
    def bytes_per_s(self) -> float:
        """What transfers to it have reached, in the running mean."""
        value = self._table.value(self.row, "bytes_per_s")
        return DEFAULT_BYTES_PER_S if value is None else float(value)

    @property
    def flops(self) -> float:
        """What is believed of its speed: as it claims, as far as visits bear it out; 0 where it claims none."""
        return self._number("flops")

    def wait_s(self, now_ns: int) -> float:
        """How long a visit ordered now would wait there for a slot, as it said, less what has passed since."""
        columns = self._table.group("load")
        if columns is None:
            return 0.0
        told_s = float(columns.values["wait_s"][self.row])
        passed_s = ns_to_seconds(max(0, now_ns - int(columns.generated_ns[self.row])))
        return max(0.0, told_s - passed_s) if told_s == told_s else 0.0

    @property
    def memory_bytes_per_s(self) -> float:
        """What is believed of its memory's speed, as `flops`."""
        return self._number("memory_bytes_per_s")

    @property
    def round_trip_s(self) -> float | None:
        """Measured round trip; None: not measured."""
        value = self._table.value(self.row, "round_trip_s")
        return None if value is None else float(value)

    @property
    def cool_until_ns(self) -> int:
        """After a failure a node rests a little, so that a job does not come back to it at once."""
        value = self._table.value(self.row, "rests_until_unix_s")
        return 0 if value is None else round(float(value) * NS_PER_S)

    def set_reachable(self, reachable: bool, now_ns: int) -> None:
        """It answers, or does not."""
        self._note("reach", {"reachable": reachable}, self.spoke_ns, now_ns)

    def set_spoke(self, now_ns: int) -> None:
        """Something came from it now."""
        self._note("reach", {}, now_ns, now_ns)

    def set_confirmed(self, now_ns: int) -> None:
        """Its description holds now."""
        columns = self._table.ensure("identity")
        columns.received_ns[self.row] = now_ns
        if now_ns:
            columns.generated_ns[self.row] = now_ns

    def set_accessible(self, accessible: bool) -> None:
        """Some policy of its lets somebody use it; and it is shown, since it described itself."""
        self._note("reach", {"accessible": accessible, "visible": True}, self.spoke_ns, self.spoke_ns)

    def set_trust(self, trust: float, evidence: float, now_ns: int) -> None:
        """How far it is trusted now and by how much evidence, as `topology.trust` has it."""
        self._note("trust", {"trust": trust, "trust_evidence": min(evidence, EVIDENCE_MOST)}, now_ns, now_ns)

    def set_reachable_frac(self, share: float) -> None:
        """Share of the last days in which it answered."""
        self._note("reach", {"reachable_frac": share}, self.spoke_ns, self.spoke_ns)

    def set_place(self, place: Place, now_ns: int) -> None:
        """Its network coordinates, as the location service has them."""
        values: dict[str, Value] = {f"position_{axis}_s": getattr(place, f"{axis}_s") for axis in AXES}
        self._note("place", values, now_ns, now_ns)

    def set_power(self, machine: Hardware, now_ns: int) -> None:
        """What its machine runs on, as the compute service has it: what the system does not say is not known."""
        source, battery = machine.energy, machine.battery
        on_mains = 1.0 if source is EnergySource.MAINS else None
        values: dict[str, Value] = {
            "energy_source": None if source is EnergySource.UNKNOWN else source.value,
            "battery_frac": on_mains if battery is None else battery.charge_frac,
            "power_watts": None if battery is None else battery.draw_watts,
        }
        self._note("power", believed(Kind.TERMINAL, values), now_ns, now_ns)

    def set_bytes_per_s(self, bytes_per_s: float, now_ns: int) -> None:
        """A transfer reached this, in the running mean."""
        self._note("path", {"bytes_per_s": bytes_per_s}, now_ns, now_ns)

    def set_round_trip_s(self, seconds: float, spread_s: float, loss_frac: float, now_ns: int) -> None:
        """A round trip took so long; so far apart are its quartiles, and so many were lost."""
        values: dict[str, Value] = {"round_trip_s": seconds, "jitter_s": spread_s, "loss_frac": loss_frac}
        self._note("path", values, now_ns, now_ns, {"round_trip_s": spread_s})

    def set_measured(self, values: Mapping[str, Value], now_ns: int) -> None:
        """Visits measured this of its compute: facts of the group `measured`."""
        self._note("measured", values, now_ns, now_ns)

    def set_cool_until(self, until_ns: int) -> None:
        """It rests until then."""
        self._note("reach", {"rests_until_unix_s": ns_to_seconds(until_ns)}, self.spoke_ns, self.spoke_ns)

    def _number(self, fact: str) -> float:
        value = self._table.value(self.row, fact)
        return 0.0 if value is None else float(value)

    def _note(
        self,
        group: str,
        values: Mapping[str, Value],
        generated_ns: int,
        received_ns: int,
        deviations: dict[str, float] | None = None,
    ) -> None:
        self._table.note(
            self.row,
            group,
            values,
            source=CENTER_SOURCE,
            generated_ns=generated_ns,
            received_ns=received_ns,
            deviations=deviations,
        )
