"""Check that an ONNX file is safe to run before onnxruntime reads it.

A graph can have loops, and a few bytes can define tensors of any size. This module reads the names of operators, the
shapes of constants, and the values of small ones from protobuf's wire format
(protobuf.dev/programming-guides/encoding) with the field numbers of onnx.proto: running an export does not need the
package `onnx`.
"""

import contextlib
import functools
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple, Union

from fairseq_signals_ext.common.errors import UserError

# operators of our exports, and others that other versions of torch may export; none has loops, random numbers or files
_OPERATORS = frozenset(
    (
        *("Abs", "Add", "And", "ArgMax", "BatchNormalization", "Cast", "CastLike", "Clip", "Concat", "Constant"),
        *("ConstantOfShape", "Conv", "CumSum", "Div", "Einsum", "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather"),
        *("GatherElements", "Gelu", "Gemm", "Greater", "GreaterOrEqual", "GroupNormalization", "Identity"),
        *("InstanceNormalization", "IsNaN", "LayerNormalization", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min"),
        *("Mod", "Mul", "Neg", "Not", "Or", "Pad", "Pow", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceSum"),
        *("Relu", "Reshape", "ScatterElements", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt", "Squeeze"),
        *("Sub", "Tanh", "Transpose", "Unsqueeze", "Where"),
    )
)
# which input of these operators is a shape, possibly a constant
_SHAPE_INPUT = {"Expand": 1, "ConstantOfShape": 0}
_MOST_OF_A_SHAPE = 2**26  # values
_MOST_PADDING = 2**16  # to each side
_MOST_FIELDS = 200_000  # exports of ECG-FM have 10,000
_SMALL = 64  # values of a constant that are read
_INT64 = 7  # of TensorProto.DataType
# bytes of a value, by TensorProto.DataType; less than a byte counts as one
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 14: 8, 15: 16, 16: 2}

Value = Union[int, memoryview]


class _Node(NamedTuple):
    """An operator with the names of its inputs and outputs, and its largest padding."""

    operator: str
    inputs: List[str]
    outputs: List[str]
    padding: int


class _Reader:
    """Reads the messages of one file; counts their fields."""

    def __init__(self) -> None:
        self._fields = 0

    def fields(self, message: memoryview) -> Iterator[Tuple[int, Value]]:
        """Numbers and values of a message's fields, in order; nothing is copied."""
        place = 0
        while place < len(message):
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ValueError(f"it has more than {_MOST_FIELDS:,} parts")
            key, place = _varint(message, place)
            kind = key & 7
            if kind == 0:
                value, place = _varint(message, place)
                yield key >> 3, value
                continue
            size = {1: 8, 5: 4}.get(kind)
            if kind == 2:
                size, place = _varint(message, place)
            if size is None or place + size > len(message):
                raise ValueError("it is cut short")
            yield key >> 3, message[place : place + size]
            place += size


def _varint(message: memoryview, place: int) -> Tuple[int, int]:
    """A number of up to 64 bits, and the place after it."""
    value = shift = 0
    for byte in message[place : place + 10]:
        value |= (byte & 127) << shift
        shift += 7
        place += 1
        if byte < 128:
            return value & (2**64 - 1), place
    raise ValueError("it is cut short")


def check_graph(path: Path) -> None:
    """Check that an ONNX file has only operators that our exports need, and no constants larger than the file.

    Raises:
        UserError: it has other operators or larger constants, or it is not an ONNX file.
    """
    try:
        with open(path, "rb") as file:
            # not closed here: it is freed with the last view of it, which an exception may keep for a while
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        _check_model(memoryview(mapped), _bytes_of(path))
    except (ValueError, TypeError, OSError, struct.error) as error:
        raise UserError(f"{path}: damaged, or not an export of ours ({error}); export again") from None


def _bytes_of(path: Path) -> int:
    """Size of the file, with the separate file of its weights, if there is one."""
    beside = path.with_name(f"{path.name}.data")
    return path.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)


def _check_model(model: memoryview, size: int) -> None:
    reader = _Reader()
    constants: Dict[str, List[int]] = {}
    nodes: List[_Node] = []
    for number, value in reader.fields(model):
        if number in (20, 25):  # training_info, functions
            raise ValueError("it has functions of its own")
        if number == 7:
            _read_graph(reader, _message(value), size, constants, nodes)
    if not nodes:
        raise ValueError("it has no graph")
    for node in nodes:
        _check_node(node, constants)


def _read_graph(
    reader: _Reader, graph: memoryview, size: int, constants: Dict[str, List[int]], nodes: List[_Node]
) -> None:
    for number, value in reader.fields(graph):
        if number == 15:  # sparse_initializer
            raise ValueError("it has sparse constants")
        if number == 5:  # initializer
            name, values = _read_tensor(reader, _message(value), size)
            constants[name] = values
        elif number == 1:
            nodes.append(_read_node(reader, _message(value), size, constants))


def _read_node(reader: _Reader, message: memoryview, size: int, constants: Dict[str, List[int]]) -> _Node:
    operator = domain = ""
    inputs, outputs, padding = [], [], 0
    values: List[int] = []
    for number, value in reader.fields(message):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            operator = _text(value)
        elif number == 7:
            domain = _text(value)
        elif number == 5:
            attribute_padding, found = _read_attribute(reader, _message(value), size)
            padding, values = max(padding, attribute_padding), found or values
    if domain not in ("", "ai.onnx") or operator not in _OPERATORS:
        raise ValueError(f"it has the operator {f'{domain}.{operator}'.lstrip('.')!r:.60}, which none of ours needs")
    if operator == "Constant":
        constants.update({name: values for name in outputs})
    return _Node(operator, inputs, outputs, padding)


def _read_attribute(reader: _Reader, message: memoryview, size: int) -> Tuple[int, List[int]]:
    """The largest padding in an attribute, and the values of a small constant."""
    name = ""
    whole: List[int] = []
    values: List[int] = []
    for number, value in reader.fields(message):
        if number == 1:
            name = _text(value)
        elif number in (6, 11):  # g, graphs
            raise ValueError("it has a graph inside an operator")
        elif number in (10, 22, 23):  # tensors, sparse ones
            raise ValueError("it has an operator with lists of constants")
        elif number == 5:
            values = _read_tensor(reader, _message(value), size)[1]
        elif number in (3, 8):
            whole += _whole_numbers(value)
    padding = max(map(abs, whole), default=0) if name in ("pads", "output_padding", "dilations", "strides") else 0
    return padding, values or whole[:_SMALL]


def _read_tensor(reader: _Reader, message: memoryview, size: int) -> Tuple[str, List[int]]:
    """Name of a constant, and its values if they are a few integers, as in a shape."""
    name, kind = "", 0
    dims: List[int] = []
    values: List[int] = []
    raw: Any = b""
    for number, value in reader.fields(message):
        if number == 1:
            dims += _whole_numbers(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
        elif number == 7 and len(values) <= _SMALL:
            values += _whole_numbers(value)
        elif number == 9:
            raw = _message(value)
    if len(dims) > _SMALL or min(dims, default=0) < 0 or math.prod(dims) * _BYTES.get(kind, 1) > size:
        raise ValueError(f"its constant {name!r:.60} is larger than the file")
    if kind == _INT64 and 0 < len(raw) <= 8 * _SMALL:
        values = list(struct.unpack(f"<{len(raw) // 8}q", raw[: len(raw) // 8 * 8]))
    return name, values if kind == _INT64 and math.prod(dims) <= _SMALL else []


def _check_node(node: _Node, constants: Dict[str, List[int]]) -> None:
    padding = node.padding
    if node.operator == "Pad" and len(node.inputs) > 1:
        padding = max(padding, *map(abs, constants.get(node.inputs[1]) or [0]))
    if padding > _MOST_PADDING:
        raise ValueError(f"its operator {node.operator} pads by {padding:,}")
    place = _SHAPE_INPUT.get(node.operator)
    if place is not None and len(node.inputs) > place:
        values = math.prod(max(1, abs(size)) for size in constants.get(node.inputs[place], ()))
        if values > _MOST_OF_A_SHAPE:
            raise ValueError(f"its operator {node.operator} makes {values:,} values of nothing")


def _message(value: Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("it is damaged")
    return value


def _text(value: Value) -> str:
    return bytes(_message(value)).decode("utf-8")


def _whole_numbers(value: Value) -> List[int]:
    """Signed integers of a repeated field, packed or not."""
    if isinstance(value, int):
        return [value - 2**64 if value >= 2**63 else value]
    numbers: List[int] = []
    place = 0
    while place < len(value) and len(numbers) <= _SMALL:
        number, place = _varint(value, place)
        numbers += _whole_numbers(number)
    return numbers


@functools.lru_cache(maxsize=1)
def limit_memory() -> None:
    """Limit onnxruntime's sessions with `session.use_env_allocators` to half of the machine's memory, together.

    The product of two tensors can be very large; with a limit onnxruntime fails, without it the system ends the
    process.
    """
    import onnxruntime

    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # other code may have registered an allocator before, and not every system reports its memory
    with contextlib.suppress(Exception):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg({"max_mem": memory // 2}))
