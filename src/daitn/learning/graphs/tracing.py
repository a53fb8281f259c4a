"""Tracing an owner's module with `torch.export`, and saying where in the owner's source it cannot be traced.

Two properties of `torch.export` are worked around here. It unrolls recurrent layers step by step to learn their shapes,
which takes seconds and may fix the length; while we trace, recurrent operators tell their shapes directly. And it keeps
assumptions on sizes ("a multiple of 3") as code beside the graph, which we never run and never send: a module that
makes one is refused, with the line that makes it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch.export import Dim, ExportedProgram

from daitn.base.errors import InputError

_HERE: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_TORCH: Final = os.path.dirname(os.path.abspath(torch.__file__))
_FRAME: Final = re.compile(r'File "([^"]+)", line (\d+)')
_PROBED_SIZES: Final = (2, 3, 4, 5, 6, 7, 8, 13, 16, 31, 32)
"""Sizes at which assumptions are tried: small ones, primes, and powers of two, as branches on sizes speak of those."""
_ASSUMPTIONS: Final = 2000
"""Assumptions examined per graph, so that the check stays within seconds; a 12-layer BERT makes 1."""

_BOUNDS: Final = frozenset({"LessThan", "StrictLessThan", "GreaterThan", "StrictGreaterThan"})

BRANCH_TODO: Final = (
    "write it without a Python branch on values: torch.where, masks, or sizes fixed in the module's constructor"
)


def trace(
    module: torch.nn.Module, inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, tuple[str | None, ...]]
) -> ExportedProgram:
    """What `torch.export` makes of `module` in its present mode, for sizes named in `dynamic` left open.

    InputError naming file and line of the owner's code where the module does something that cannot be a graph.
    """
    shapes = {
        name: {side: Dim.AUTO for side, label in enumerate(dynamic.get(name, ())) if label is not None}
        for name in inputs
    }
    try:
        with _quiet(), _recurrent_shapes(), _slow_attention(), torch.enable_grad():
            return torch.export.export(module, (), dict(inputs), dynamic_shapes=shapes, strict=False)
    except InputError:
        raise
    except Exception as error:
        where = _frame_of(error)
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "data-dependent" in what or "DataDependent" in type(error).__name__:
            what = "the code takes a decision, or a size, from the values of a tensor"
        raise InputError(f"the module cannot be traced at {where}: {what}", todo=BRANCH_TODO) from error


def place_of(node: torch.fx.Node) -> str:
    """`file:line` of the owner's code that made `node`, for error messages only."""
    return _innermost(_FRAME.findall(node.meta.get("stack_trace") or "")) or "an unknown place"


def check_assumptions(program: ExportedProgram, labels: Mapping[Any, str]) -> None:
    """InputError if the traced code holds only for some sizes, other than a range; `labels` names the symbols.

    Each assumption is tried at `_PROBED_SIZES` for one dimension at a time, the others as in the example.
    """
    environment = _shape_environment(program)
    if environment is None or not labels:
        return
    hints = {symbol: int(environment.backed_var_to_val[symbol]) for symbol in labels}
    for guard in environment.guards[:_ASSUMPTIONS]:
        expression = guard.expr
        free = [symbol for symbol in expression.free_symbols if symbol in labels]
        if not free or len(free) != len(expression.free_symbols) or _is_harmless(expression):
            continue
        for symbol in free:
            for size in _PROBED_SIZES:
                alike = {other: size for other, label in labels.items() if label == labels[symbol]}
                if bool(expression.subs({**hints, **alike})):
                    continue
                where = _place_of_assumption(guard.sloc)
                raise InputError(
                    f"the module treats some sizes of {labels[symbol]!r} differently, for instance {size}, at {where}",
                    todo=f"{BRANCH_TODO}; or leave {labels[symbol]!r} out of `dynamic` to fix its size",
                )


def place_of_fixing(program: ExportedProgram, size: int) -> str:
    """`file:line` of the owner's code that fixed a side at `size`, as far as tracing knows; for error messages."""
    environment = _shape_environment(program)
    fixed = environment.replacements if environment is not None else {}
    for symbol, value in fixed.items():
        if value == size and symbol in environment.replacements_slocs:
            return _place_of_assumption(environment.replacements_slocs[symbol])
    return "an unknown place"


def _place_of_assumption(location: Any) -> str:
    """`file:line` of where tracing made an assumption."""
    frame = location.framework_loc
    if isinstance(frame, traceback.FrameSummary):
        return _innermost([(frame.filename, str(frame.lineno))]) or "an unknown place"
    return _place_in(str(location))


def _shape_environment(program: ExportedProgram) -> Any:
    """The record of what tracing assumed about sizes; None where every size is fixed."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor):
            sides: list[Any] = list(value.shape)
            for side in sides:
                if isinstance(side, torch.SymInt):
                    return side.node.shape_env
    return None


def _is_harmless(expression: Any) -> bool:
    """Whether an assumption is a plain bound (carried as a range) or only says that something is not 0 or 1."""
    kind = type(expression).__name__
    if kind == "Unequality":
        return any(side in (0, 1) for side in expression.args)
    if kind in _BOUNDS:
        return len(expression.free_symbols) == 1 or any(side.is_number for side in expression.args)
    return kind == "BooleanTrue"


def _place_in(text: str) -> str:
    """`file:line` within the text torch keeps for an assumption."""
    match = re.search(r"([\w./-]+\.py:\d+)", text)
    return match.group(1) if match else "an unknown place"


def _frame_of(error: BaseException) -> str:
    """`file:line` of the owner's innermost frame in the error, or in what torch wrote about it."""
    frames = [(frame.filename, str(frame.lineno)) for frame in traceback.extract_tb(error.__traceback__)]
    return _innermost(frames) or _innermost(_FRAME.findall(str(error))) or _place_in(str(error))


def _innermost(frames: list[tuple[str, str]]) -> str | None:
    """The last frame that is neither torch's nor ours."""
    for path, line in reversed(frames):
        if not path.startswith((_TORCH, _HERE, "torch/", "<")):
            return f"{path}:{line}"
    return None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's warnings about tracing, and its dumps of half-made graphs, away from the owner's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.fx.experimental.symbolic_shapes", "torch.export", "torch")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _slow_attention() -> Iterator[None]:
    """Trace attention as written: the fused inference path is another computation with other bits."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _recurrent_shapes() -> Iterator[None]:
    """Let recurrent operators tell their shapes at once, not be unrolled (60 steps: 0.1 s, not 4.4 s)."""
    operators: list[tuple[Any, Any]] = [
        (torch.ops.aten.lstm.input, _lstm_shape),
        (torch.ops.aten.gru.input, _rnn_shape),
        (torch.ops.aten.rnn_tanh.input, _rnn_shape),
        (torch.ops.aten.rnn_relu.input, _rnn_shape),
    ]
    saved = [dict(operator.py_kernels) for operator, _ in operators]
    for operator, shape in operators:
        for key in list(operator.py_kernels):
            operator.py_kernels[key] = shape
        operator._dispatch_cache.clear()
    try:
        yield
    finally:
        for (operator, _), kernels in zip(operators, saved, strict=True):
            operator.py_kernels.clear()
            operator.py_kernels.update(kernels)
            operator._dispatch_cache.clear()


def _sequence(data: torch.Tensor, hidden: torch.Tensor, bidirectional: bool) -> torch.Tensor:
    """An output sequence of a recurrent layer, without its values."""
    return data.new_empty([data.shape[0], data.shape[1], hidden.shape[2] * (2 if bidirectional else 1)])


def _lstm_shape(
    data: torch.Tensor,
    state: list[torch.Tensor],
    weights: list[torch.Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shapes of `aten.lstm.input`: sequence, last hidden state, last cell state."""
    del weights, has_biases, layers, dropout, train, batch_first
    return _sequence(data, state[0], bidirectional), torch.empty_like(state[0]), torch.empty_like(state[1])


def _rnn_shape(
    data: torch.Tensor,
    state: torch.Tensor,
    weights: list[torch.Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shapes of `aten.gru.input` and the simple recurrent layers: sequence, last hidden state."""
    del weights, has_biases, layers, dropout, train, batch_first
    return _sequence(data, state, bidirectional), torch.empty_like(state)
