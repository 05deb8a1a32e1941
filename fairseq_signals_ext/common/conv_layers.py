"""The stack of convolutions before the transformer: its text form, and the relation of samples and frames.

`Geometry` describes the same for any encoder.
"""

import ast
from dataclasses import dataclass
from typing import Any, List, Sequence, Tuple

from fairseq_signals_ext.common.errors import UserError

ConvLayer = Tuple[int, int, int]  # features, kernel size, stride
_MOST_LAYERS = 64
_LONGEST_TEXT = 4000  # Python's parser has no limit


def parse_conv_layers(text: str) -> List[ConvLayer]:
    """Parse convolutions in fairseq's text form, such as `"[(256, 2, 2)] * 4"`, without running it as code.

    Only lists of three whole numbers, `+` between lists and `*` with a whole number are accepted.

    Raises:
        UserError: anything else.
    """
    text = str(text).strip()
    try:
        layers = _evaluate(ast.parse(text, mode="eval").body) if len(text) <= _LONGEST_TEXT else []
    except (SyntaxError, RecursionError, ValueError, MemoryError, TypeError):
        layers = []
    well_formed = layers and all(
        isinstance(layer, tuple) and len(layer) == 3 and all(type(n) is int and n > 0 for n in layer)
        for layer in layers
    )
    if not well_formed:
        raise UserError(
            f"conv_feature_layers={text!r:.200} is not a list of (features, kernel, stride); "
            f"write it like '[(256, 2, 2)] * 4'"
        )
    return layers


def _evaluate(node: ast.AST) -> List[ConvLayer]:
    if isinstance(node, ast.List):
        return list(ast.literal_eval(node))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        layers = _evaluate(node.left) + _evaluate(node.right)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left, right = (node.right, node.left) if isinstance(node.left, ast.Constant) else (node.left, node.right)
        times = ast.literal_eval(right)
        if type(times) is not int or not 0 < times <= _MOST_LAYERS:
            raise ValueError("not a count of layers")
        layers = _evaluate(left) * times
    else:
        raise ValueError("not a list of layers")
    if len(layers) > _MOST_LAYERS:
        raise ValueError("too many layers")
    return layers


def frames_of(samples: Any, layers: Sequence[ConvLayer]) -> Any:
    """Return the number of frames of `samples` samples; an int, integer array or tensor, like `samples`."""
    for _, kernel, stride in layers:
        samples = (samples - kernel) // stride + 1
    return samples


def samples_per_frame(layers: Sequence[ConvLayer]) -> int:
    """Return the samples from the start of one frame to the start of the next."""
    hop = 1
    for _, _, stride in layers:
        hop *= stride
    return hop


def receptive_field(layers: Sequence[ConvLayer]) -> int:
    """Return the receptive field in samples: that of frame t begins at sample `t * samples_per_frame(layers)`."""
    field, hop = 1, 1
    for _, kernel, stride in layers:
        field += (kernel - 1) * hop
        hop *= stride
    return field


@dataclass(frozen=True)
class Geometry:
    """Relation of frames and samples: frame t is made of `field` samples, beginning at `t * hop - before`.

    Attributes:
        hop: samples from the start of one frame to the start of the next.
        field: samples per frame, including overlap.
        before, after: zeros that the encoder adds to a segment, in samples.
    """

    hop: int
    field: int
    before: int = 0
    after: int = 0

    @classmethod
    def of_convolutions(cls, layers: Sequence[ConvLayer]) -> "Geometry":
        """Return the geometry of a stack of convolutions without padding."""
        return cls(samples_per_frame(layers), receptive_field(layers))

    def frames(self, samples: Any) -> Any:
        """Return the number of frames of `samples` samples; an int, integer array or tensor, like `samples`."""
        return (samples + self.before + self.after - self.field) // self.hop + 1
