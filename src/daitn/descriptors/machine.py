"""A machine: what a node computes with, and what runs on it for visits, as it measured them itself."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from daitn.base.ids import JobId
from daitn.descriptors.places import Share

Amount = Annotated[float, msgspec.Meta(ge=0, le=1e18)]
Text = Annotated[str, msgspec.Meta(max_length=128)]


class EnergySource(StrEnum):
    """Where the power comes from."""

    MAINS = "mains"
    BATTERY = "battery"
    UNKNOWN = "unknown"
    """The system says nothing of it: most servers, all containers."""


class Battery(msgspec.Struct, frozen=True, kw_only=True):
    """The machine's batteries together."""

    charge_frac: Share
    charging: bool
    left_s: Amount | None = None
    """Until they are empty at the present draw; None: unknown, or charging."""
    draw_watts: Amount | None = None
    """What they give now; None: unknown, or charging."""


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """One machine: what changes seldom. Measured, not claimed; 0 where a thing could not be measured."""

    processor: Text = ""
    architecture: Text = ""
    cores: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = 1
    """Those this process may use."""
    memory_bytes: Amount = 0.0
    """What the node may use: physical, or its control group's limit."""
    accelerators: Annotated[tuple[Text, ...], msgspec.Meta(max_length=64)] = ()
    flops: Amount = 0.0
    """float32 multiply-adds of one thread, twice counted, a second."""
    memory_bytes_per_s: Amount = 0.0
    """Copied by one thread: half is read, half written."""
    slots: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0
    energy: EnergySource = EnergySource.UNKNOWN
    battery: Battery | None = None


class MachineState(Hardware, frozen=True, kw_only=True):
    """One machine at one moment, and how busy it is."""

    memory_free_bytes: Amount = 0.0
    storage_free_bytes: Amount = 0.0
    load_frac: Annotated[float, msgspec.Meta(ge=0, le=1e4)] = 0.0
    """Runnable threads over cores, mean of a minute; above 1 they wait."""
    slots_free: Annotated[int, msgspec.Meta(ge=0, le=65_536)] = 0

    def hardware(self) -> Hardware:
        """Without how busy it is."""
        return Hardware(**{name: getattr(self, name) for name in Hardware.__struct_fields__})


class WorkProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that this node runs for visits of one job."""

    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    job: JobId
    use: Annotated[str, msgspec.Meta(max_length=32)]
    """`train` or `verify`."""
    started_unix_s: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    busy: bool = False
    """A visit works in it now; else it is warm."""
    memory_bytes: Amount = 0.0
    cpu_s: Amount = 0.0
