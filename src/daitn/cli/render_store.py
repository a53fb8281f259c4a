"""How a node's store is shown to people: one line for the whole, a table of what is kept, in the order it would go."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from daitn.base.units import show_bytes

if TYPE_CHECKING:
    from rich.console import Console

    from daitn.node.store.listing import StoreListing


def show_store(where: Console, listing: StoreListing) -> None:
    """Quota and room, then each artifact; what stays comes last, with the jobs it is kept for."""
    from rich.table import Table

    where.print(
        f"{show_bytes(listing.used_bytes)} of {show_bytes(listing.quota_bytes)} used, "
        f"{show_bytes(listing.pinned_bytes)} kept for jobs; room for {show_bytes(listing.room_bytes)}, "
        f"{show_bytes(listing.disk_free_bytes)} free on the disk"
    )
    table = Table()
    for heading in ("goes", "artifact", "kind", "name", "size", "written", "kept for", "served"):
        table.add_column(heading, overflow="fold", justify="right" if heading in ("goes", "size") else "left")
    for one in listing.packs:
        table.add_row(
            "stays" if one.goes is None else str(one.goes),
            one.artifact[:16] or "-",
            one.kind,
            one.name,
            show_bytes(one.size_bytes),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.written_unix_s)),
            ", ".join(one.pins) or "-",
            "yes" if one.servable else "no",
        )
    for part in listing.partials:
        came = f"{part.verified_chunks} chunks came"
        table.add_row("-", part.artifact[:16], "under way", came, show_bytes(part.size_bytes), "-", "-", "no")
    where.print(table)
