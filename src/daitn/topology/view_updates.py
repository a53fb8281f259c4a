"""How views that decisions were made on are kept up to date: by following the map, or by periodic triggers (II-A)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec


class ViewUpdates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For the views of running jobs, and for query views that somebody holds."""

    by: Literal["adapter", "periodic"] = "adapter"
    """`adapter`: whenever something that matters changed. `periodic`: the orchestrator makes them anew every period."""
    period_s: Annotated[float, msgspec.Meta(ge=0.1, le=30)] = 5.0
    """At most half of what consent may be old."""
