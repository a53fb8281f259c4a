"""The registry, first part: what the map holds of terminals, their compute, verification units and model hosts."""

from __future__ import annotations

from typing import Final

from daitn.descriptors.fact_kinds import (
    DAY_S,
    Group,
    Kind,
    Source,
    choice,
    flag,
    frac,
    moment,
    number,
    word,
)

ACCESS_KINDS: Final = ("wireline", "wifi", "cellular", "satellite")
ENERGY_SOURCES: Final = ("mains", "battery")

TERMINAL_GROUPS: Final = (
    Group(
        name="identity",
        kind=Kind.TERMINAL,
        number=1,
        age_most_s=60.0,
        hard=True,
        source=Source.OVERSEER,
        meaning="who it is, as its enrolment and its confirmed description say",
        facts=(
            word("name", "the name it was enrolled by"),
            word("operator", "the organisation that runs it"),
            word("region", "where it is, in the operator's words"),
            word("processor", "its processor's family"),
            word("accelerator", "its accelerator's model; empty for none"),
            flag("holds_data", "carries data sets"),
            flag("computes", "carries a compute facility"),
            flag("verifies", "carries a verification unit (MPVU)"),
            flag("aggregates", "carries an aggregator"),
            flag("hosts", "carries a model host (MDFP)"),
        ),
    ),
    Group(
        name="reach",
        kind=Kind.TERMINAL,
        number=2,
        age_most_s=10.0,
        source=Source.OVERSEER,
        meaning="whether it answers, is shown, and may be used: three facts, because each can hold without the others",
        facts=(
            flag("reachable", "it answers now"),
            flag("visible", "its operator lets it be shown to others"),
            flag("accessible", "some policy of its lets somebody use it"),
            frac(
                "reachable_frac",
                "share of the last days, the newest most, in which it answered when it was to be there",
            ),
            moment("rests_until_unix_s", "after a lost visit it is not asked before this"),
        ),
    ),
    Group(
        name="path",
        kind=Kind.TERMINAL,
        number=3,
        age_most_s=60.0,
        source=Source.OVERSEER,
        meaning="the way to it from the centre, measured",
        facts=(
            number("round_trip_s", "s", 600.0, "round trip"),
            number("jitter_s", "s", 600.0, "spread of the round trip, between its quartiles"),
            number("bytes_per_s", "bytes/s", 1e13, "what transfers to it have reached"),
            frac("loss_frac", "share of messages lost"),
        ),
    ),
    Group(
        name="place",
        kind=Kind.TERMINAL,
        number=14,
        age_most_s=3600.0,
        source=Source.OVERSEER,
        meaning="where it is in the network: coordinates from measured round trips",
        facts=(
            number("position_x_s", "s", 100.0, "first network coordinate", least=-100.0),
            number("position_y_s", "s", 100.0, "second network coordinate", least=-100.0),
            number("position_z_s", "s", 100.0, "third network coordinate", least=-100.0),
            number("position_height_s", "s", 100.0, "height: the part of each round trip that is its own access"),
        ),
    ),
    Group(
        name="access",
        kind=Kind.TERMINAL,
        number=5,
        age_most_s=3600.0,
        meaning="how it is attached, and when",
        facts=(
            choice("access_kind", ACCESS_KINDS, "kind of its access link"),
            flag("metered", "traffic costs its operator"),
            frac("available_frac", "share of the coming day in which it will be attached, by its windows"),
            moment("window_opens_unix_s", "its next window opens; in the past where it is open"),
            moment("window_closes_unix_s", "that window closes"),
        ),
    ),
    Group(
        name="attachment",
        kind=Kind.TERMINAL,
        number=17,
        age_most_s=3600.0,
        meaning="what it sees of its own link: falls too short for others to notice are among it",
        facts=(
            flag("attached", "its link to the network holds; no while it has fallen too often, until it is steady"),
        ),
    ),
    Group(
        name="power",
        kind=Kind.TERMINAL,
        number=15,
        age_most_s=600.0,
        source=Source.OVERSEER,
        meaning="what it runs on",
        facts=(
            choice("energy_source", ENERGY_SOURCES, "where its energy comes from"),
            frac("battery_frac", "charge left; 1 on mains"),
            number("power_watts", "W", 1e8, "what the machine draws now, where its battery tells"),
            number(
                "flops_per_joule", "FLOP/J", 1e15, "a visit's work for one joule, by the draw that its operator states"
            ),
        ),
    ),
    Group(
        name="capacity",
        kind=Kind.TERMINAL,
        number=7,
        age_most_s=3600.0,
        meaning="what its compute facility has and claims",
        facts=(
            number("cores", "1", 1e6, "processor cores"),
            number("slots", "1", 65_536.0, "visits it takes at once"),
            number("memory_bytes", "bytes", 1e16, "memory for visits"),
            number("storage_bytes", "bytes", 1e18, "room for artifacts"),
            number("accelerators", "1", 1e5, "accelerators"),
            number("accelerator_memory_bytes", "bytes", 1e16, "memory of all accelerators"),
            number(
                "flops", "FLOP/s", 1e18, "claimed speed of work", measured_as="measured_flops", unmeasured_most=1e14
            ),
            number(
                "memory_bytes_per_s",
                "bytes/s",
                1e16,
                "claimed speed of memory",
                measured_as="measured_memory_bytes_per_s",
                unmeasured_most=1e13,
            ),
        ),
    ),
    Group(
        name="measured",
        kind=Kind.TERMINAL,
        number=8,
        age_most_s=DAY_S,
        source=Source.OVERSEER,
        meaning="what others measured of its compute facility: bounds what it claims",
        facts=(
            number("measured_flops", "FLOP/s", 1e18, "speed of work, from visits and preflights"),
            number("measured_memory_bytes_per_s", "bytes/s", 1e16, "speed of memory, from visits"),
            number("batch_seconds", "s", 1e6, "a batch of the last visit took so long"),
        ),
    ),
    Group(
        name="load",
        kind=Kind.TERMINAL,
        number=9,
        age_most_s=10.0,
        meaning="how busy it is",
        facts=(
            frac("load_frac", "share of its cores in use"),
            number("busy_slots", "1", 65_536.0, "visits it works on"),
            number("free_slots", "1", 65_536.0, "visits it would take now"),
            number("wait_s", "s", 1e7, "a visit ordered now would wait so long"),
            number("memory_free_bytes", "bytes", 1e16, "memory not in use"),
            number("storage_free_bytes", "bytes", 1e18, "room not in use"),
        ),
    ),
    Group(
        name="price",
        kind=Kind.TERMINAL,
        number=10,
        age_most_s=3600.0,
        meaning="what it costs",
        facts=(
            number("price_per_hour", "units/h", 1e9, "one slot for an hour"),
            number("price_per_gb", "units/GB", 1e9, "a gigabyte over its link"),
        ),
    ),
    Group(
        name="trust",
        kind=Kind.TERMINAL,
        number=11,
        age_most_s=7 * DAY_S,
        source=Source.OVERSEER,
        meaning="how far it is trusted; the evidence itself is in `topology.trust`",
        facts=(
            frac("trust", "score in 0 to 1"),
            number("trust_evidence", "1", 1e6, "weight of the evidence the score is made of"),
        ),
    ),
    Group(
        name="verification",
        kind=Kind.TERMINAL,
        number=16,
        age_most_s=600.0,
        source=Source.OVERSEER,
        meaning="what its verification unit can do, as its description and its last result show",
        facts=(
            number("test_records", "1", 1e12, "records of the test set that it measured on last"),
            number("evaluations_left", "1", 1e9, "evaluations until it counts as worn out; before the first, all"),
        ),
    ),
    Group(
        name="hosting",
        kind=Kind.TERMINAL,
        number=13,
        age_most_s=10.0,
        meaning="what its model host can do",
        facts=(
            number("models", "1", 1e6, "models loaded"),
            number("model_memory_free_bytes", "bytes", 1e16, "room for further models"),
            number("queries_per_s", "1/s", 1e9, "queries it answers now"),
            number("queries_per_s_most", "1/s", 1e9, "queries it has been measured to sustain"),
            number("queue_s", "s", 1e6, "a query asked now would wait so long"),
        ),
    ),
)
