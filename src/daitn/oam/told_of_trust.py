"""What a job's log says where it is not known whom to believe: data sets set aside, verification units compared."""

from __future__ import annotations

from collections.abc import Callable

from daitn.base.ids import NodeId
from daitn.control_center.training.records import SitesSetAside, UnitsCompared
from daitn.oam import wording


def say_set_aside(record: SitesSetAside) -> str:
    """Why the job goes on without some data sets, and from which model."""
    names = ", ".join(record.aside)
    if record.model is None:
        return f"{record.why}: the job goes on " + (f"without {names}" if names else "with all of them again")
    model = wording.short(record.model)
    return f"{record.why}: does one of the data sets spoil the model? On from {model} without {names}"


def say_compared(record: UnitsCompared, names: Callable[[NodeId], str]) -> str:
    """Whether two units found the same, and what follows where they did not."""
    model, unit, other = wording.short(record.model), names(record.unit), names(record.other)
    if not record.difference:
        return f"{unit} finds of {model} what {other} found"
    if record.odd is not None:
        odd = names(record.odd)
        return f"of {model} the units say {record.difference}: {odd} stands alone, and is not believed any more"
    return (
        f"of {model} {other} and {unit} say {record.difference}: neither counts alone; the goal is reached where all "
        f"say so, until a third unit of another operator decides, or the owner leaves one out; {names(record.lower)} "
        "measures meanwhile"
    )
