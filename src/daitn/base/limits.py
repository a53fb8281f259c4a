"""Limits: every queue, cache, retry and size that a peer or user can fill, with the reason for its number."""

from __future__ import annotations

from typing import Final

from daitn.base.units import GIB, MIB

MESSAGE_BYTES: Final = 1 * MIB
"""Largest control message. Manifests of a thousand tensors are 200 kB; anything bigger belongs into chunks."""

MESSAGE_DEPTH: Final = 32
"""Deepest nesting a control message may have; our own stay below 12."""

CHUNK_BYTES: Final = 2 * MIB
"""Largest chunk: two of them in flight fill a 1 Gbit/s link of 30 ms; 2 GB are then 1,000 entries of a manifest."""

SMALL_TENSOR_BYTES: Final = CHUNK_BYTES // 8
"""Tensors below this share chunks with their neighbours, so that a thousand biases are not a thousand requests."""

MANIFEST_BYTES: Final = 16 * MIB
"""Largest manifest: 100,000 tensors of 160 bytes each."""

GRAPH_BYTES: Final = 32 * MIB
"""Largest graph file; MiniLM with LoRA is 0.6 MB."""

TENSORS: Final = 100_000
"""Tensors in one package; the largest public models have 30,000."""

ARTIFACT_BYTES: Final = 512 * GIB
"""Largest artifact."""

INBOX_MESSAGES: Final = 4096
"""Control messages waiting at one node; beyond it the sender gets `busy` and repeats."""

NAME_CHARS: Final = 256
"""Longest name of a tensor, column or field."""

FIELDS: Final = 256
"""Fields in one contract; a target speaks of one, a verification unit keeps counts for each."""

CLASSES: Final = 100_000
"""Labels in one vocabulary: word-piece tokenizers have 30,000, ImageNet-21k 21,000."""

SITES_PER_ORDER: Final = 512
"""Samples of one test set, updates of one average: each costs an order about 900 bytes, so half a message is full."""

GROUP_MEMBERS: Final = 8
"""Visits that exchange tensors with one another: each sends to every other, so traffic grows with their square."""

HOLDERS: Final = 16
"""Holders named for one artifact; a receiver pulls from a few at a time."""

VISITS_PER_JOB: Final = 10_000
"""Visits one job may make before it ends as exhausted, whatever its budget says."""

JOBS_HELD: Final = 1_000
"""Jobs a terminal names in one message as those it keeps artifacts for; of more, the rest waits for the next one."""

ARTIFACTS_RELEASED: Final = 10_000
"""Artifacts named in one release message; of a job with more, the rest is evicted when room is needed."""

MODELS_SERVED: Final = 128
"""Models one domain serves, and one host carries: each is up to 5 kB in the message that says so to a gateway."""

REPLICAS_SERVED: Final = 512
"""Replicas of all models of a domain together: 0.3 kB each in that message."""

GATEWAY_KEYS: Final = 1500
"""Keys that gateways know of: 0.2 to 0.6 kB each in the message that tells them. A domain with more callers gives each
organisation one key."""

SPECS_BYTES: Final = 2048
"""What the inputs, and what the outputs of a served model may take when told: thirty tensors."""

HOSTS_PER_MODEL: Final = 64
"""Replicas of one model. Of more, queries gain nothing that a second model name would not give."""

ZONE_OPERATORS: Final = 16
"""Operators that one query trusts: a group of institutions, and no list of all of them."""

TENSORS_PER_QUERY: Final = 64
"""Named inputs or outputs of one query; a contract has as many."""

QUERY_BYTES: Final = 2 * MIB - 4096
"""Tensors of one query, or of its answer: one message of the data plane. 500,000 numbers; larger inputs are split by
rows, and pictures of more than that are better sent compressed to a model that reads them."""

QUERY_ROWS: Final = 65_536
"""Rows (records) of one query."""
