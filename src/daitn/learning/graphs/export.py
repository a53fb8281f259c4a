"""Export: an owner's `nn.Module` becomes a graph pair and its tensors, with a proof that nothing was lost.

The module is traced twice, in training and in evaluation, with named sizes left open; each traced operation is
translated into the closed format, where integer arithmetic becomes size expressions, literal tensors become buffers,
and blocks under `torch.no_grad()` become marked nodes. Then the pair is rebuilt and run beside the module on the
example: outputs and buffers must agree bit for bit. No name, path or line of the owner's source enters the pair; they
appear only in errors shown to the owner.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from daitn.artifacts.graph_check import check_graph_pair
from daitn.artifacts.graph_schema import (
    Argument,
    Buffer,
    BufferRef,
    Constant,
    Dimension,
    DimensionRange,
    Dtype,
    DtypeName,
    Equation,
    Graph,
    GraphPair,
    Here,
    Input,
    InputRef,
    MemoryFormat,
    MemoryFormatName,
    Mode,
    Named,
    Node,
    NodeRef,
    Output,
    Parameter,
    ParameterRef,
    Reference,
    Several,
    Size,
    Tie,
    Word,
)
from daitn.artifacts.operators import ARGUMENT_NAMES, EQUATION, GETITEM, OPERATORS, WORDS
from daitn.base.errors import InputError, PeerError
from daitn.learning.graphs.proof import check_example, prove
from daitn.learning.graphs.sizes import symbol_labels, symbol_range, to_expression
from daitn.learning.graphs.tracing import check_assumptions, place_of, trace

_DTYPES: Final = {getattr(torch, name.value): name for name in DtypeName}
_FORMATS: Final = {getattr(torch, name.value): name for name in MemoryFormatName}
_DROPPED_ARGUMENTS: Final = frozenset({"layout", "pin_memory", "generator"})
_WITHOUT_EFFECT: Final = frozenset(
    {
        "aten._assert_scalar.default",
        "aten._assert_async.msg",
        "aten._assert_tensor_metadata.default",
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
    }
)
"""Checks that tracing adds; ATen's operators check what they are given themselves."""


def export_pair(
    module: torch.nn.Module,
    example_inputs: Mapping[str, torch.Tensor],
    dynamic: Mapping[str, tuple[str | None, ...]],
) -> tuple[GraphPair, dict[str, torch.Tensor]]:
    """The graph pair of `module` and copies of its tensors (parameters, buffers, lifted constants) by name.

    `example_inputs` are the arguments of `forward` by name; `dynamic` names, per input, the sides whose size may vary
    (`{"ids": ("batch", "length")}`), all others are fixed at the example's size. Sides of one name must be equal.
    The module's mode and state are as before. InputError, with file and line, where the module cannot be a graph:
    decisions on values or on particular sizes, operators that are not on the list, results that differ on rebuilding.
    Cost: mostly tracing, 0.1 s for a layer and 10 s for a 12-layer BERT.
    """
    check_example(example_inputs, dynamic)
    owned = _OwnedTensors(module)
    before = {name: part.training for name, part in module.named_modules()}
    try:
        graphs: dict[Mode, Graph] = {}
        dimensions: dict[str, DimensionRange] = {}
        inputs: tuple[Input, ...] = ()
        for mode in (Mode.TRAIN, Mode.EVAL):
            module.train(mode is Mode.TRAIN)
            program = trace(module, example_inputs, dynamic)
            labels = symbol_labels(program, example_inputs, dynamic)
            check_assumptions(program, labels)
            translator = _Translator(program, mode, owned, {str(symbol): label for symbol, label in labels.items()})
            graphs[mode] = translator.graph(list(example_inputs))
            for symbol, label in labels.items():
                dimensions[label] = symbol_range(program, symbol, label, dimensions.get(label))
        inputs = tuple(_input(name, tensor, dynamic) for name, tensor in example_inputs.items())
        pair = GraphPair(
            dimensions=tuple(dimensions.values()),
            inputs=inputs,
            parameters=owned.parameters,
            buffers=owned.buffers,
            ties=owned.ties,
            train=graphs[Mode.TRAIN],
            eval=graphs[Mode.EVAL],
        )
        try:
            check_graph_pair(pair)
        except PeerError as error:
            raise InputError(f"the module makes a graph that sites refuse: {error.what}") from None
        return prove(module, pair, owned.tensors, example_inputs), owned.copies()
    finally:
        for name, part in module.named_modules():
            part.training = before.get(name, part.training)


def _input(name: str, tensor: torch.Tensor, dynamic: Mapping[str, tuple[str | None, ...]]) -> Input:
    """How the pair declares one input."""
    labels = dynamic.get(name, (None,) * tensor.dim())
    shape = tuple(
        Constant(side) if label is None else Dimension(label) for side, label in zip(tensor.shape, labels, strict=True)
    )
    return Input(name, _dtype_name(tensor.dtype, f"input {name!r}"), shape)


def _dtype_name(dtype: torch.dtype, subject: str) -> DtypeName:
    """The format's name of a torch type; InputError naming `subject` for others."""
    if dtype not in _DTYPES:
        raise InputError(
            f"{subject} is of type {dtype}, which cannot travel",
            todo=f"use one of {', '.join(name.value for name in DtypeName)}",
        )
    return _DTYPES[dtype]


class _OwnedTensors:
    """Parameters and buffers of the owner's module, numbered; grows by the constants that tracing lifts out."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._aliases: dict[str, str] = {}
        self._parameters: list[Parameter] = []
        self._buffers: list[Buffer] = []
        self._locations: dict[tuple[int, int], str] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            if not self._is_alias(name, parameter):
                dtype = _dtype_name(parameter.dtype, f"parameter {name!r}")
                self._numbers[name] = len(self._parameters)
                self._parameters.append(Parameter(name, dtype, tuple(parameter.shape), parameter.requires_grad))
        for name, buffer in module.named_buffers(remove_duplicate=False):
            if not self._is_alias(name, buffer):
                self._add_buffer(name, buffer)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Declarations of the parameters, in the module's order."""
        return tuple(self._parameters)

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        """Declarations of the buffers, then of the lifted constants."""
        return tuple(self._buffers)

    @property
    def ties(self) -> tuple[Tie, ...]:
        """Second names of tied parameters."""
        known = {parameter.name for parameter in self._parameters}
        return tuple(Tie(alias, name) for alias, name in self._aliases.items() if name in known)

    def reference(self, name: str) -> ParameterRef | BufferRef:
        """How nodes refer to the tensor the module knows as `name`."""
        name = self._aliases.get(name, name)
        number = self._numbers[name]
        is_parameter = number < len(self._parameters) and self._parameters[number].name == name
        return ParameterRef(number) if is_parameter else BufferRef(number)

    def lift(self, name: str, mode: Mode, tensor: torch.Tensor) -> BufferRef:
        """A buffer for a constant of the owner's code; equal constants of both graphs share one."""
        plain = f"constants.{name.replace('.', '_')}"
        for candidate in (plain, f"{plain}_{mode.value}"):
            known = self.tensors.get(candidate)
            if known is None:
                self._add_buffer(candidate, tensor)
                known = tensor
            if known.dtype == tensor.dtype and known.shape == tensor.shape and bool(torch.equal(known, tensor)):
                return BufferRef(self._numbers[candidate])
        raise InputError(f"the module already has a tensor called {plain!r}", todo="rename it")

    def copies(self) -> dict[str, torch.Tensor]:
        """Detached, contiguous copies of all tensors by name; tied ones once."""
        return {
            name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()
        }

    def _add_buffer(self, name: str, buffer: torch.Tensor) -> None:
        self._numbers[name] = len(self._buffers)
        self._buffers.append(Buffer(name, _dtype_name(buffer.dtype, f"buffer {name!r}"), tuple(buffer.shape)))
        self.tensors[name] = buffer

    def _is_alias(self, name: str, tensor: torch.Tensor) -> bool:
        """Whether `tensor` is known under another name; InputError for two tensors in the same memory."""
        if id(tensor) in self._names:
            self._aliases[name] = self._names[id(tensor)]
            return True
        location = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and location in self._locations:
            raise InputError(
                f"{name!r} and {self._locations[location]!r} are two tensors in the same memory",
                todo="tie weights by assigning the same nn.Parameter to both",
            )
        self._locations[location] = name
        self._names[id(tensor)] = name
        if isinstance(tensor, torch.nn.Parameter):
            self.tensors[name] = tensor
        return False


class _Translator:
    """Turns one traced program into a graph of the format."""

    def __init__(self, program: ExportedProgram, mode: Mode, owned: _OwnedTensors, labels: dict[str, str]) -> None:
        self._program = program
        self._mode = mode
        self._owned = owned
        self._labels = labels
        self._nodes: list[Node] = []
        self._mutates: set[int] = set()

    def graph(self, input_names: list[str]) -> Graph:
        """The whole translation; `input_names` in the order the pair declares them."""
        values = self._placeholders(input_names)
        results = self._translate(self._program.graph_module, values, gradient=True)
        return Graph(self._mode, tuple(self._nodes), self._outputs(results), tuple(sorted(self._mutates)))

    def _placeholders(self, input_names: list[str]) -> dict[torch.fx.Node, Any]:
        """What the program's placeholders stand for."""
        users = [spec for spec in self._program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]
        _, by_name = pytree.tree_unflatten(list(range(len(users))), self._program.call_spec.in_spec)
        order = {position: name for name, position in by_name.items()}
        values: dict[torch.fx.Node, Any] = {}
        position = 0
        placeholders = [node for node in self._program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(placeholders, self._program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                values[node] = InputRef(input_names.index(order[position]))
                position += 1
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target is not None:
                values[node] = self._owned.reference(spec.target)
            elif spec.kind is InputKind.CONSTANT_TENSOR and spec.target is not None:
                constant = self._program.constants[spec.target]
                values[node] = self._owned.lift(spec.target, self._mode, constant)
            else:
                raise InputError(f"the module holds a {spec.kind.name.lower()}, which cannot travel")
        return values

    def _translate(self, body: torch.fx.GraphModule, values: dict[torch.fx.Node, Any], *, gradient: bool) -> list[Any]:
        """Append the nodes of `body`; returns what its output node refers to."""
        for node in body.graph.nodes:
            if node.op == "output":
                return [self._output_value(item, values) for item in pytree.tree_leaves(node.args)]
            if node.op == "call_function":
                self._call(node, body, values, gradient=gradient)
            elif node.op not in ("placeholder", "get_attr"):
                raise InputError(f"the module's {node.op} at {place_of(node)} cannot travel")
        return []

    def _call(
        self, node: torch.fx.Node, body: torch.fx.GraphModule, values: dict[torch.fx.Node, Any], *, gradient: bool
    ) -> None:
        """Translate one operation."""
        name = str(node.target)
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            values[node] = self._block(node, body, values, gradient=gradient)
        elif node.target is operator.getitem and isinstance(node.args[0], torch.fx.Node):
            source, number = values[node.args[0]], node.args[1]
            if isinstance(source, list) and isinstance(number, int):
                values[node] = source[number]
            else:
                values[node] = self._append(Node(GETITEM, (source, self._argument(number, values, node)), (), gradient))
        elif name in _WITHOUT_EFFECT or not _makes_tensors(node):
            return
        elif name in OPERATORS:
            arguments = tuple(self._argument(item, values, node) for item in node.args)
            named = tuple(self._named(node, values))
            if OPERATORS[name].in_place and arguments and isinstance(arguments[0], BufferRef):
                self._mutates.add(arguments[0].index)
            self._note_running_statistics(name, arguments)
            values[node] = self._append(Node(name, arguments, named, gradient))
        else:
            raise InputError(
                f"the module uses the operation {name} at {place_of(node)}, which is not on the list",
                todo="write it with operations of torch.nn and torch.nn.functional on tensors",
            )

    def _append(self, node: Node) -> NodeRef:
        self._nodes.append(node)
        return NodeRef(len(self._nodes) - 1)

    def _note_running_statistics(self, name: str, arguments: tuple[Argument, ...]) -> None:
        """Batch and instance norm change their running mean and variance when they use the batch's own."""
        if name in ("aten.batch_norm.default", "aten.instance_norm.default") and arguments[5] is True:
            self._mutates |= {item.index for item in arguments[3:5] if isinstance(item, BufferRef)}

    def _block(
        self, node: torch.fx.Node, body: torch.fx.GraphModule, values: dict[torch.fx.Node, Any], *, gradient: bool
    ) -> list[Any]:
        """Inline a block under `torch.no_grad()` or a disabled autocast; its results, to be taken by `getitem`."""
        name = str(node.target)
        arguments = list(node.args)
        if name == "wrap_with_set_grad_enabled":
            gradient, inner, passed = bool(arguments[0]), arguments[1], arguments[2:]
        elif name == "wrap_with_autocast" and arguments[2] is False:
            inner, passed = arguments[4], arguments[5:]
        else:
            raise InputError(
                f"the module uses a {name} block at {place_of(node)}, which cannot travel",
                todo="no torch.cond, map, scan or enabled autocast inside the module; precision is chosen by the plan",
            )
        block = getattr(body, str(inner.target)) if isinstance(inner, torch.fx.Node) else None
        if not isinstance(block, torch.fx.GraphModule):
            raise InputError(f"the module's {name} block at {place_of(node)} could not be read")
        places = [item for item in block.graph.nodes if item.op == "placeholder"]
        inside = {
            place: values.get(given, given) if isinstance(given, torch.fx.Node) else given
            for place, given in zip(places, passed, strict=True)
        }
        return self._translate(block, inside, gradient=gradient)

    def _named(self, node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> Iterator[Named]:
        """Arguments given by name, without those that say nothing at another machine."""
        for name, value in node.kwargs.items():
            if name in _DROPPED_ARGUMENTS or (value is None and name != "dtype"):
                continue
            if name not in ARGUMENT_NAMES:
                raise InputError(f"the module gives {node.target} the argument {name!r} at {place_of(node)}")
            yield Named(name, self._argument(value, values, node))

    def _argument(self, value: Any, values: dict[torch.fx.Node, Any], node: torch.fx.Node) -> Argument:
        """One argument in the format; InputError with the place for what has no word there."""
        if isinstance(value, torch.fx.Node):
            if value in values:
                return values[value]  # type: ignore[no-any-return]
            return self._size(value.meta.get("val"), node)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._size(value, node)
        if isinstance(value, (list, tuple)):
            return Several(tuple(self._argument(item, values, node) for item in value))
        if isinstance(value, torch.dtype):
            return Dtype(_dtype_name(value, f"an argument of {node.target} at {place_of(node)}"))
        if isinstance(value, torch.device):
            return Here()
        if isinstance(value, torch.memory_format):
            return MemoryFormat(_FORMATS[value])
        if isinstance(value, str) and value in WORDS:
            return Word(value)
        if isinstance(value, str) and "einsum" in str(node.target) and EQUATION.fullmatch(value):
            return Equation(value)
        raise InputError(f"the module gives {node.target} the value {str(value)[:60]!r} at {place_of(node)}")

    def _size(self, value: Any, node: torch.fx.Node) -> Argument:
        """A number computed from sizes."""
        if isinstance(value, (bool, int, float)):
            return value
        expression = to_expression(value, self._labels) if isinstance(value, torch.SymInt) else None
        if expression is None:
            raise InputError(
                f"the module computes {str(value)[:60]} from sizes or values at {place_of(node)}, which cannot travel",
                todo="use whole-number arithmetic on the sizes of inputs, or compute with tensors",
            )
        return expression.value if isinstance(expression, Constant) else Size(expression)

    def _output_value(self, item: Any, values: dict[torch.fx.Node, Any]) -> Any:
        return values.get(item) if isinstance(item, torch.fx.Node) else item

    def _outputs(self, results: list[Any]) -> tuple[Output, ...]:
        """The named outputs: dictionary keys, positions as `output.0`, or `output` for a single tensor."""
        specs = self._program.graph_signature.output_specs
        kept = [value for value, spec in zip(results, specs, strict=True) if spec.kind.name == "USER_OUTPUT"]
        tree = pytree.tree_unflatten([(value,) for value in kept], self._program.call_spec.out_spec)
        return tuple(_named_outputs(tree, ""))


def _named_outputs(tree: Any, prefix: str) -> Iterator[Output]:
    """The leaves of what `forward` returned, each a one-tuple around its reference, with their names."""
    name = prefix or "output"
    if type(tree) is tuple and len(tree) == 1 and (tree[0] is None or isinstance(tree[0], Reference)):
        if tree[0] is not None:
            yield Output(name, tree[0])
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _named_outputs(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(tree, (tuple, list)):
        for position, value in enumerate(tree):
            yield from _named_outputs(value, f"{name}.{position}")
    elif tree is not None:
        raise InputError(f"output {name!r} of the module is no tensor", todo="return tensors, or a dictionary of them")


def _makes_tensors(node: torch.fx.Node) -> bool:
    """Whether a traced operation makes tensors, rather than sizes or truth values."""
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(node.meta.get("val")))
