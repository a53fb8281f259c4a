"""The checker of graphs and the allow-list: what is refused, and with which words."""

from __future__ import annotations

import msgspec
import pytest
import torch

from daitn.artifacts.graph import decode_graph_pair, encode_graph_pair
from daitn.artifacts.graph_check import FAULTS, check_graph_pair
from daitn.artifacts.graph_schema import (
    Add,
    Buffer,
    BufferRef,
    Constant,
    Dimension,
    DimensionRange,
    DtypeName,
    Equation,
    FloorDiv,
    Graph,
    GraphPair,
    Input,
    InputRef,
    Mode,
    Mul,
    Named,
    Node,
    NodeRef,
    Output,
    Parameter,
    ParameterRef,
    Several,
    Size,
    Sub,
    Tie,
    Word,
)
from daitn.artifacts.operators import ARGUMENT_NAMES, GETITEM, OPERATORS, Family
from daitn.base.errors import PeerError

F32 = DtypeName.FLOAT32
LINEAR = Node("aten.linear.default", (InputRef(0), ParameterRef(0)))


def make_graph(
    mode: Mode, *nodes: Node, mutates: tuple[int, ...] = (), outputs: tuple[Output, ...] | None = None
) -> Graph:
    last = (Output("output", NodeRef(len(nodes) - 1)),)
    return Graph(mode, nodes, last if outputs is None else outputs, mutates)


def make_pair(*nodes: Node, mutates: tuple[int, ...] = (), **changes: object) -> GraphPair:
    """A sound pair whose training graph has `nodes`."""
    pair = GraphPair(
        dimensions=(DimensionRange("batch", 1, None),),
        inputs=(Input("x", F32, (Dimension("batch"), Constant(4))),),
        parameters=(Parameter("weight", F32, (2, 4), True),),
        buffers=(Buffer("seen", F32, ()),),
        ties=(),
        train=make_graph(Mode.TRAIN, *(nodes or (LINEAR,)), mutates=mutates),
        eval=make_graph(Mode.EVAL, LINEAR),
    )
    return msgspec.structs.replace(pair, **changes)


def make_zeros(*sides: object) -> Node:
    return Node("aten.zeros.default", (Several(sides),))  # type: ignore[arg-type]


def test_sound_pair_passes_and_has_one_encoding():
    pair = make_pair()
    check_graph_pair(pair)
    assert decode_graph_pair(encode_graph_pair(pair)) == pair


BATCH = Dimension("batch")
DEEP = BATCH
for _ in range(40):
    DEEP = Add(DEEP, Constant(1))  # type: ignore[assignment]

REFUSED_NODES = {
    "unlisted operator": (Node("aten.from_file.default", (Word("none"),)), "not on the list of allowed operators"),
    "python by name": (Node("builtins.eval.default", ()), "not on the list"),
    "uninitialised memory": (Node("aten.empty.memory_format", (Several((4,)),)), "not on the list"),
    "reference to itself": (Node("aten.relu.default", (NodeRef(0),)), "refers to node 0, which is not an earlier one"),
    "reference ahead": (Node("aten.relu.default", (NodeRef(7),)), "refers to node 7"),
    "negative reference": (Node("aten.relu.default", (NodeRef(-1),)), "refers to node -1"),
    "missing input": (Node("aten.relu.default", (InputRef(1),)), "refers to input 1 of 1"),
    "missing parameter": (Node("aten.relu.default", (ParameterRef(-1),)), "refers to parameter -1 of 1"),
    "missing buffer": (Node("aten.relu.default", (BufferRef(1),)), "refers to buffer 1 of 1"),
    "parameter in place": (Node("aten.zero_.default", (ParameterRef(0),)), "only an optimizer may"),
    "undeclared buffer in place": (Node("aten.zero_.default", (BufferRef(0),)), "does not declare"),
    "nothing in place": (Node("aten.zero_.default", (3,)), "no tensor"),
    "huge literal": (make_zeros(1 << 20, 1 << 20), r"1\.1e\+12 elements"),
    "huge product with batch": (make_zeros(Size(Mul(BATCH, Constant(1 << 30)))), "elements"),
    "huge behind a difference": (make_zeros(Size(Mul(Constant(1 << 39), Sub(BATCH, Constant(1))))), "elements"),
    "huge expand": (Node("aten.expand.default", (InputRef(0), Several((1 << 40, 4)))), "elements"),
    "huge repeat": (Node("aten.repeat.default", (InputRef(0), Several((1 << 15, 1 << 15)))), "elements"),
    "huge range": (Node("aten.arange.start_step", (0, 1.0, 1e-12)), "elements"),
    "endless range": (Node("aten.arange.default", (float("inf"),)), "elements"),
    "not a number of steps": (Node("aten.arange.start", (float("nan"), 3)), "elements"),
    "range without step": (Node("aten.arange.start_step", (0, 1, 0)), "elements"),
    "huge padding": (Node("aten.constant_pad_nd.default", (InputRef(0), Several((1 << 30, 0)))), "elements"),
    "number beyond 64 bits": (Node("aten.add.Scalar", (InputRef(0), 1 << 63)), "does not fit into 64 bits"),
    "deep expression": (make_zeros(Size(DEEP)), "nested deeper than 16"),
    "unknown dimension": (make_zeros(Size(Dimension("length"))), "'length', which is not declared"),
    "division by nothing": (make_zeros(Size(FloorDiv(BATCH, Constant(0)))), "not a positive constant"),
    "huge constant": (make_zeros(Size(Constant(1 << 50))), "out of range"),
    "free text": (
        Node("aten.gelu.default", (InputRef(0),), (Named("approximate", Word("__import__")),)),
        "allowed words",
    ),
    "no Einstein sum": (Node("aten.einsum.default", (Equation("a;b"), Several((InputRef(0),)))), "Einstein sum"),
    "unknown argument name": (
        Node("aten.relu.default", (InputRef(0),), (Named("out", InputRef(0)),)),
        "by the name 'out'",
    ),
    "argument twice": (Node("aten.ones_like.default", (InputRef(0),), (Named("dtype", None),) * 2), "given twice"),
    "many arguments": (Node("aten.relu.default", (InputRef(0),) * 33), "33 arguments, 32 allowed"),
    "long list": (Node("aten.cat.default", (Several((InputRef(0),) * 4097),)), "4097 items"),
    "lists in lists": (Node("aten.cat.default", (Several((Several((Several(()),)),)),)), "nested deeper"),
    "indexing by getitem": (Node(GETITEM, (InputRef(0), 0)), "takes an earlier node and a number"),
    "getitem of a truth value": (Node(GETITEM, (NodeRef(0), True)), "result number"),
}


@pytest.mark.parametrize("case", REFUSED_NODES)
def test_node_that_breaks_a_rule_is_refused_with_graph_and_number(case):
    node, said = REFUSED_NODES[case]
    first = () if case in ("reference to itself",) else (LINEAR,)
    with pytest.raises(PeerError, match=said) as caught:
        check_graph_pair(make_pair(*first, node))
    assert f"train graph, node {len(first)} ({node.operator})" in caught.value.what
    assert caught.value.todo


REFUSED_PAIRS = {
    "negative side": ({"parameters": (Parameter("weight", F32, (-2, 4), True),)}, "sides of 0 to"),
    "absurd side": ({"parameters": (Parameter("weight", F32, (1 << 60,), True),)}, "sides of 0 to"),
    "absurd product": ({"parameters": (Parameter("weight", F32, (1 << 30, 1 << 30), True),)}, "bytes"),
    "absurd sum": (
        {"parameters": tuple(Parameter(f"w{i}", F32, (1 << 36,), True) for i in range(4))},
        "parameters and buffers take",
    ),
    "many dimensions": ({"parameters": (Parameter("weight", F32, (1,) * 9, True),)}, "9 dimensions, 8 allowed"),
    "one name twice": ({"buffers": (Buffer("weight", F32, ()),)}, "already taken"),
    "a name within another": ({"buffers": (Buffer("weight.x", F32, ()),)}, "lies inside 'weight'"),
    "a name with a path": ({"parameters": (Parameter("../weight", F32, (2, 4), True),)}, "letters, digits"),
    "a long name": ({"parameters": (Parameter("w" * 257, F32, (2, 4), True),)}, "letters, digits"),
    "trained integers": ({"parameters": (Parameter("weight", DtypeName.INT64, (2, 4), True),)}, "cannot be trained"),
    "tie to nothing": ({"ties": (Tie("other", "missing"),)}, "is no parameter"),
    "no inputs": ({"inputs": ()}, "0 inputs"),
    "input that is no name": ({"inputs": (Input("x y", F32, (BATCH,)),)}, "not an identifier"),
    "input of an unknown dimension": ({"inputs": (Input("x", F32, (BATCH, Dimension("other"))),)}, "not declared"),
    "dimension nobody has": (
        {"dimensions": (DimensionRange("batch", 1, None), DimensionRange("free", 1, 2))},
        "no input",
    ),
    "empty range": ({"dimensions": (DimensionRange("batch", 5, 4),)}, "ranges from 5 to 4"),
    "modes exchanged": ({"eval": make_graph(Mode.TRAIN, LINEAR)}, "eval graph calls itself 'train'"),
    "no outputs": ({"eval": make_graph(Mode.EVAL, LINEAR, outputs=())}, "0 outputs"),
    "output of nothing": ({"eval": make_graph(Mode.EVAL, LINEAR, outputs=(Output("y", NodeRef(1)),))}, "node 1"),
    "output twice": ({"eval": make_graph(Mode.EVAL, LINEAR, outputs=(Output("y", NodeRef(0)),) * 2)}, "used twice"),
    "unknown changed buffer": ({"eval": make_graph(Mode.EVAL, LINEAR, mutates=(1,))}, "list of changed buffers"),
}


@pytest.mark.parametrize("case", REFUSED_PAIRS)
def test_pair_that_breaks_a_rule_is_refused(case):
    changes, said = REFUSED_PAIRS[case]
    with pytest.raises(PeerError, match=said):
        check_graph_pair(make_pair(**changes))


def test_declared_buffer_may_be_changed_in_place():
    check_graph_pair(make_pair(Node("aten.add_.Tensor", (BufferRef(0), 1)), LINEAR, mutates=(0,)))


def test_size_within_the_limit_passes():
    check_graph_pair(make_pair(make_zeros(Size(BATCH), 1 << 20), LINEAR))
    check_graph_pair(make_pair(Node("aten.arange.start", (10**9, 10**9 + 5)), LINEAR))


def test_many_faults_are_listed_together_up_to_a_bound():
    with pytest.raises(PeerError) as caught:
        check_graph_pair(make_pair(*(Node(f"aten.evil{i}.default", ()) for i in range(50))))
    assert caught.value.what.count("not on the list") == FAULTS


# --- the table against torch ----------------------------------------------------------------------------------------

ATEN = [operator for operator in OPERATORS.values() if operator.family is not Family.TUPLE]
ALLOWED_TYPES = ("Tensor", "number", "int", "float", "bool", "str", "Device", "Generator")


def overload_of(name: str) -> torch._ops.OpOverload:
    _, base, overload = name.split(".")
    return getattr(getattr(torch.ops.aten, base), overload)


def test_every_listed_operator_is_atens_and_takes_only_tensors_and_numbers():
    for operator in ATEN:
        signature = overload_of(operator.name)._schema
        for argument in signature.arguments:
            kind = str(argument.type)
            for wrapper in ("Optional[", "List[", "]"):
                kind = kind.replace(wrapper, "")
            assert kind in ALLOWED_TYPES, (operator.name, argument.name, kind)
        assert all("Tensor" in str(result.type) for result in signature.returns), operator.name


def test_in_place_marks_are_those_of_torch():
    for operator in ATEN:
        writes = any(argument.is_write for argument in overload_of(operator.name)._schema.arguments)
        assert writes == operator.in_place, operator.name


def test_every_factory_has_its_size_bounded():
    for operator in ATEN:
        arguments = overload_of(operator.name)._schema.arguments
        takes_tensors = any("Tensor" in str(argument.type) for argument in arguments)
        assert takes_tensors or operator.sizes or operator.name == "aten.scalar_tensor.default", operator.name
        for position in operator.sizes:
            assert not arguments[position].kwarg_only, operator.name


def test_no_listed_operator_reads_what_it_was_not_given():
    banned = (
        "empty",
        "as_strided",
        "set_",
        "resize",
        "from_file",
        "item",
        "_unsafe_index",
        "storage",
        "save",
        "load",
        "data_ptr",
    )
    for operator in ATEN:
        base = operator.name.split(".")[1]
        assert not any(base == word or (word in base and len(word) > 4) for word in banned), operator.name


def test_argument_names_are_keyword_only_everywhere_they_size_something():
    for operator in ATEN:
        arguments = overload_of(operator.name)._schema.arguments
        assert not {arguments[position].name for position in operator.sizes} & ARGUMENT_NAMES - {"output_size"}
