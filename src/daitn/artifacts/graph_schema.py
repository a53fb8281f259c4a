"""What a graph file can say: the closed set of values in which an owner's model travels.

Two graphs, one for training and one for evaluation, share inputs, parameters and buffers, so that they cannot disagree
about them. A graph is a list of nodes; a node is an operator's name (from `artifacts.operators`) and typed arguments,
which refer to inputs, parameters, buffers and *earlier* nodes by number. Nodes have no names, and tensors are never
inside: what was a literal tensor in the owner's code is a named buffer. Sizes that vary from batch to batch are
expressions over named dimensions, as data: nothing is ever parsed from a string.

Why not `torch.export` archives: loading one runs code (symbolic expressions through sympify, guards through exec), and
they carry the owner's source paths. Tests in `tests/architecture` show it.

All structs are encoded as arrays, so a file holds values and no field names; see `artifacts.graph` for the bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec


class _Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of everything in a graph file."""


class DtypeName(StrEnum):
    """Element types a graph may use: those with exact, portable arithmetic; no complex, quantised or string types."""

    FLOAT64 = "float64"
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT8 = "uint8"
    BOOL = "bool"

    @property
    def item_bytes(self) -> int:
        """Bytes of one element."""
        return _ITEM_BYTES[self]

    @property
    def is_floating(self) -> bool:
        """Whether gradients can flow through it."""
        return self.value.startswith(("float", "bfloat"))


_ITEM_BYTES = {
    DtypeName.FLOAT64: 8,
    DtypeName.FLOAT32: 4,
    DtypeName.FLOAT16: 2,
    DtypeName.BFLOAT16: 2,
    DtypeName.INT64: 8,
    DtypeName.INT32: 4,
    DtypeName.INT16: 2,
    DtypeName.INT8: 1,
    DtypeName.UINT8: 1,
    DtypeName.BOOL: 1,
}


class MemoryFormatName(StrEnum):
    """How a tensor's elements lie in memory."""

    CONTIGUOUS = "contiguous_format"
    PRESERVE = "preserve_format"
    CHANNELS_LAST = "channels_last"
    CHANNELS_LAST_3D = "channels_last_3d"


class Mode(StrEnum):
    """For which `module.train(mode)` a graph was made."""

    TRAIN = "train"
    EVAL = "eval"


# --- sizes: expressions over dimensions -------------------------------------------------------------------------------


class Constant(_Part, frozen=True, tag="k"):
    """A fixed whole number."""

    value: int


class Dimension(_Part, frozen=True, tag="d"):
    """The size of a named dimension (`batch`, `length`), known when inputs arrive."""

    name: str


class Add(_Part, frozen=True, tag="+"):
    """`left + right`."""

    left: Expression
    right: Expression


class Sub(_Part, frozen=True, tag="-"):
    """`left - right`."""

    left: Expression
    right: Expression


class Mul(_Part, frozen=True, tag="*"):
    """`left * right`."""

    left: Expression
    right: Expression


class FloorDiv(_Part, frozen=True, tag="/"):
    """`left // right`, rounding down."""

    left: Expression
    right: Expression


class Mod(_Part, frozen=True, tag="%"):
    """`left % right`, with the sign of `right`."""

    left: Expression
    right: Expression


class Max(_Part, frozen=True, tag=">"):
    """The greater of the two."""

    left: Expression
    right: Expression


class Min(_Part, frozen=True, tag="<"):
    """The lesser of the two."""

    left: Expression
    right: Expression


Expression: TypeAlias = Constant | Dimension | Add | Sub | Mul | FloorDiv | Mod | Max | Min


# --- arguments of nodes -----------------------------------------------------------------------------------------------


class InputRef(_Part, frozen=True, tag="i"):
    """Input number `index` of the pair."""

    index: int


class ParameterRef(_Part, frozen=True, tag="p"):
    """Parameter number `index` of the pair."""

    index: int


class BufferRef(_Part, frozen=True, tag="b"):
    """Buffer number `index` of the pair."""

    index: int


class NodeRef(_Part, frozen=True, tag="n"):
    """Result of node number `index` of the same graph; must be earlier than the node that refers to it."""

    index: int


class Size(_Part, frozen=True, tag="s"):
    """A whole number computed from dimensions."""

    expression: Expression


class Word(_Part, frozen=True, tag="w"):
    """A string from the closed set `operators.WORDS`, such as `tanh`."""

    text: str


class Equation(_Part, frozen=True, tag="e"):
    """An Einstein sum: letters, commas and one arrow; checked against that grammar."""

    text: str


class Dtype(_Part, frozen=True, tag="t"):
    """An element type as an argument."""

    name: DtypeName


class MemoryFormat(_Part, frozen=True, tag="m"):
    """A memory format as an argument."""

    name: MemoryFormatName


class Here(_Part, frozen=True, tag="h"):
    """The device on which the model runs at the site; a graph names no device."""


class Several(_Part, frozen=True, tag="l"):
    """A list of arguments."""

    items: tuple[Argument, ...]


Reference: TypeAlias = InputRef | ParameterRef | BufferRef | NodeRef
Argument: TypeAlias = (
    bool
    | int
    | float
    | InputRef
    | ParameterRef
    | BufferRef
    | NodeRef
    | Size
    | Word
    | Equation
    | Dtype
    | MemoryFormat
    | Here
    | Several
    | None
)


class Named(_Part, frozen=True):
    """An argument given by name; `name` is from the closed set `operators.ARGUMENT_NAMES`."""

    name: str
    value: Argument


class Node(_Part, frozen=True):
    """One operation. `gradient` is false where the owner's code ran it under `torch.no_grad()`."""

    operator: str
    arguments: tuple[Argument, ...]
    named: tuple[Named, ...] = ()
    gradient: bool = True


# --- the pair ---------------------------------------------------------------------------------------------------------


class DimensionRange(_Part, frozen=True):
    """A named dimension and the sizes for which the graph is exact; `maximum` None: no upper bound."""

    name: str
    minimum: int
    maximum: int | None


class Input(_Part, frozen=True):
    """A tensor the model is fed with, under the name of the argument of the owner's `forward`."""

    name: str
    dtype: DtypeName
    shape: tuple[Constant | Dimension, ...]


class Parameter(_Part, frozen=True):
    """A trained tensor; `trainable` false where the owner froze it."""

    name: str
    dtype: DtypeName
    shape: tuple[int, ...]
    trainable: bool


class Buffer(_Part, frozen=True):
    """A tensor that is state but not trained: running statistics, masks, lifted constants."""

    name: str
    dtype: DtypeName
    shape: tuple[int, ...]


class Tie(_Part, frozen=True):
    """The owner's module knows parameter `name` under `alias` too (tied weights)."""

    alias: str
    name: str


class Output(_Part, frozen=True):
    """A named result."""

    name: str
    value: Reference


class Graph(_Part, frozen=True):
    """Nodes in the order they run; `mutates` lists the numbers of the buffers they change in place."""

    mode: Mode
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    mutates: tuple[int, ...] = ()


class GraphPair(_Part, frozen=True):
    """A model: what it is fed with, which tensors it holds, and how it computes in training and in evaluation."""

    dimensions: tuple[DimensionRange, ...]
    inputs: tuple[Input, ...]
    parameters: tuple[Parameter, ...]
    buffers: tuple[Buffer, ...]
    ties: tuple[Tie, ...]
    train: Graph
    eval: Graph
