"""The registry, second part: what the map holds of data sets, models, queries and links."""

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
    refers,
    word,
)

DATA_TYPES: Final = ("table", "text", "image", "audio", "video", "series", "graph", "environment", "mixed")
QUERY_PATTERNS: Final = ("steady", "daily", "weekly", "bursty")

DATA_GROUPS: Final = (
    Group(
        name="data_identity",
        kind=Kind.DATA,
        number=20,
        age_most_s=60.0,
        hard=True,
        source=Source.OVERSEER,
        meaning="what it is and what its owner's policy allows, as its confirmed description says",
        facts=(
            refers("terminal", Kind.TERMINAL, "who holds it"),
            word("schema", "the contract that its columns fit"),
            choice("data_type", DATA_TYPES, "what its records are"),
            flag("raw_may_move", "policy: records may stream to compute in the trust zone"),
            frac("sample_frac", "policy: largest share that a verification unit may be given"),
            flag("open_to_all", "policy: any owner and purpose"),
        ),
    ),
    Group(
        name="volume",
        kind=Kind.DATA,
        number=21,
        age_most_s=DAY_S,
        meaning="how much there is; private counts carry the deviation of their noise",
        facts=(
            number("records", "1", 1e15, "training records"),
            number("groups", "1", 1e15, "groups (patients, say) they belong to"),
            number("record_bytes", "bytes", 1e15, "mean size of a record as tensors"),
            number("data_bytes", "bytes", 1e18, "size of all as tensors"),
        ),
    ),
    Group(
        name="quality",
        kind=Kind.DATA,
        number=27,
        age_most_s=DAY_S,
        meaning="shares of records with a fault",
        facts=(
            frac("missing_frac", "values missing"),
            frac("duplicate_frac", "records that are there twice"),
            frac("out_of_vocabulary_frac", "values outside the contract's vocabularies"),
            frac("dropped_frac", "records that do not fit the contract"),
        ),
    ),
    Group(
        name="data_age",
        kind=Kind.DATA,
        number=28,
        age_most_s=DAY_S,
        meaning="how old the records are",
        facts=(
            moment("newest_unix_s", "when the newest records were made, to the day, where the policy lets it be told"),
            moment("median_unix_s", "half of the records were made before, by the quantiles that are published"),
        ),
    ),
    Group(
        name="dynamics",
        kind=Kind.DATA,
        number=24,
        age_most_s=DAY_S,
        meaning="how it changes",
        facts=(
            number("records_per_s", "1/s", 1e9, "records that arrive"),
            number("drift", "1", 100.0, "distance of new records from old ones (population stability index)"),
            number("drift_per_s", "1/s", 100.0, "how fast that distance grows"),
        ),
    ),
    Group(
        name="data_label",
        kind=Kind.DATA_LABEL,
        number=25,
        age_most_s=DAY_S,
        source=Source.OVERSEER,
        meaning="one bar of a label histogram, with the noise it was published with",
        facts=(
            refers("data", Kind.DATA, "whose"),
            word("label", "which label"),
            number("label_records", "1", 1e15, "records with it"),
        ),
    ),
    Group(
        name="data_field",
        kind=Kind.DATA_FIELD,
        number=26,
        age_most_s=DAY_S,
        source=Source.OVERSEER,
        meaning="what a data set has of a field",
        facts=(
            refers("data", Kind.DATA, "whose"),
            word("field", "which field"),
            number("field_records", "1", 1e15, "records of it"),
        ),
    ),
)

MODEL_GROUPS: Final = (
    Group(
        name="unit_field",
        kind=Kind.UNIT_FIELD,
        number=30,
        age_most_s=DAY_S,
        source=Source.OVERSEER,
        meaning="what a verification unit can test of a field, as its last result on it shows",
        facts=(
            refers("terminal", Kind.TERMINAL, "whose"),
            word("field", "which field"),
            number("field_test_records", "1", 1e12, "test records of it"),
        ),
    ),
    Group(
        name="model_identity",
        kind=Kind.MODEL,
        number=31,
        age_most_s=600.0,
        source=Source.OVERSEER,
        meaning="what it is and where it lies",
        facts=(
            refers("terminal", Kind.TERMINAL, "its host"),
            word("model", "its name"),
            word("task", "what it does with texts, `tensors` where it takes none"),
            flag("model_accessible", "some policy of its provider lets somebody ask it"),
        ),
    ),
    Group(
        name="model_state",
        kind=Kind.MODEL,
        number=34,
        age_most_s=10.0,
        meaning="how it does at its host",
        facts=(
            number("model_bytes", "bytes", 1e15, "its size in memory"),
            number("service_s", "s", 1e6, "a query takes so long once begun"),
            number("tokens_per_s", "1/s", 1e9, "words it makes in a second, where it makes words"),
            frac("model_load_frac", "share of its slots in use"),
            number("model_queue_s", "s", 1e6, "a query asked now would wait so long"),
        ),
    ),
    Group(
        name="model_quality",
        kind=Kind.MODEL,
        number=35,
        age_most_s=30 * DAY_S,
        source=Source.OVERSEER,
        meaning="how good it is: its host has no say in that",
        facts=(frac("accuracy", "measured by a verification unit, over all fields"),),
    ),
    Group(
        name="model_field",
        kind=Kind.MODEL_FIELD,
        number=36,
        age_most_s=30 * DAY_S,
        source=Source.OVERSEER,
        meaning="how good a model is in a field",
        facts=(
            refers("model", Kind.MODEL, "whose"),
            word("field", "which field"),
            frac("field_accuracy", "measured by a verification unit"),
        ),
    ),
    Group(
        name="query_identity",
        kind=Kind.QUERY,
        number=40,
        age_most_s=600.0,
        source=Source.OVERSEER,
        meaning="which queries",
        facts=(
            word("query_kind", "what is asked"),
            word("query_region", "from where"),
            choice("query_pattern", QUERY_PATTERNS, "how its rate moves"),
        ),
    ),
    Group(
        name="query_rate",
        kind=Kind.QUERY,
        number=42,
        age_most_s=60.0,
        source=Source.OVERSEER,
        meaning="how often, and what they need",
        facts=(
            number("asked_per_s", "1/s", 1e9, "queries in a second"),
            number("asked_per_s_peak", "1/s", 1e9, "the same in the busiest minute of its period"),
            number("asked_per_s_soon", "1/s", 1e9, "the same in a minute, as it moves now"),
            number("query_bytes", "bytes", 1e12, "mean size of a query"),
            number("latency_goal_s", "s", 1e6, "what most of them want"),
        ),
    ),
    Group(
        name="link_identity",
        kind=Kind.LINK,
        number=50,
        age_most_s=600.0,
        source=Source.OVERSEER,
        meaning="between whom",
        facts=(
            refers("from_terminal", Kind.TERMINAL, "where it begins"),
            refers("to_terminal", Kind.TERMINAL, "where it ends"),
            flag("direct", "without a router between"),
            flag("link_metered", "traffic costs somebody"),
        ),
    ),
    Group(
        name="link_state",
        kind=Kind.LINK,
        number=52,
        age_most_s=60.0,
        source=Source.OVERSEER,
        meaning="how it does, measured",
        facts=(
            number("link_round_trip_s", "s", 600.0, "round trip"),
            number("link_bytes_per_s", "bytes/s", 1e13, "bandwidth"),
            frac("link_loss_frac", "share of messages lost"),
        ),
    ),
)
