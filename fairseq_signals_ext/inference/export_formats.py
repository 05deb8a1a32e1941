"""The files of exports: ONNX, safetensors and TorchScript."""

import contextlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import torch

from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.common.files import require_room
from fairseq_signals_ext.inference.export_check import probe
from fairseq_signals_ext.inference.network import EcgNetwork

ONNX_FILE = "model.onnx"
SAFETENSORS_FILE = "model.safetensors"
TORCHSCRIPT_FILE = "model.pt"
# 22 gives the same graph but needs onnxruntime 1.20, this one 1.18; onnxruntime 1.32 fails to run what torch 2.13 makes
# of attention for 23 and 24, and later ones are not known to torch
OPSET = 21
# a protobuf message is below 2 GiB; larger models have their weights in a second file
_LARGEST_FILE = 2**31 - 2**24
_SMALL = 1024  # bytes
# more than all but the parameters takes
_CODE_BYTES = 2**22


def write_onnx(network: EcgNetwork, description: ModelDescription, path: Path) -> None:
    """Write a network, for any number of segments of the description's length, and see that the file is valid.

    Weights of 2 GiB or more are in a second file, `model.onnx.data`.
    """
    import onnx
    import onnx_ir

    model, traced = _graph(network, description)
    initializers = list(model.graph.initializers.values())
    if sum(value.const_value.nbytes for value in initializers) < _LARGEST_FILE:
        _write_one_file(model, path)
    else:
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
        onnx.checker.check_model(str(path))
    for value in [*traced, *initializers]:
        value.const_value = None  # onnxscript keeps the last graph that it looked at, and so the network, for good


def _graph(network: EcgNetwork, description: ModelDescription) -> Tuple[Any, List[Any]]:
    """The network as an `onnx_ir.Model`, whose initializers share the network's memory; and those that it had at first.

    These are others than now where weights were transposed.
    """
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            network,
            probe(description, segments=2, shortened=True),
            dynamo=True,
            verbose=False,
            optimize=False,
            opset_version=OPSET,
            input_names=["source", "padding_mask"],
            output_names=description.output_names,
            dynamic_shapes={"source": {0: "segments"}, "padding_mask": {0: "segments"}},
        )
        traced = list(program.model.graph.initializers.values())
        program.optimize()
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with paths of this machine
    program.model.metadata_props.update(_facts(description))
    return program.model, traced


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter says of itself: thousands of lines where fairseq has set logging to all."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


def _facts(description: ModelDescription) -> Dict[str, str]:
    """What programs for ONNX show of a model."""
    inputs = description.preprocessing
    return {
        "kind": description.kind,
        "label_names": json.dumps(description.label_names),
        "leads": json.dumps(inputs.leads),
        "sample_rate": f"{inputs.sample_rate:g}",
    }


def _write_one_file(model: Any, path: Path) -> None:
    """Write a model tensor by tensor, and check it before; it has no large initializers afterwards.

    Protobuf messages one after the other are read as one message, merged, so that the whole is never in memory
    (protobuf.dev/programming-guides/encoding, "Last One Wins").
    """
    import onnx
    from onnx_ir import serde

    large = [value for value in model.graph.initializers.values() if value.const_value.nbytes > _SMALL]
    for value in large:
        del model.graph.initializers[value.name]
    _check_with_inputs(model, large)
    with open(path, "wb") as file:
        file.write(serde.serialize_model(model).SerializeToString(deterministic=True))
        for value in large:
            tensor = serde.serialize_tensor(value.const_value)
            tensor.name = value.name
            onnx.checker.check_tensor(tensor)
            file.write(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString())


def _check_with_inputs(model: Any, values: List[Any]) -> None:
    """Check a model to which some values are given as inputs; the checker would hold a whole file twice in memory."""
    import onnx
    from onnx_ir import serde

    inputs = len(model.graph.inputs)
    model.graph.inputs.extend(values)
    onnx.checker.check_model(serde.serialize_model(model), full_check=True)
    del model.graph.inputs[inputs:]


def write_safetensors(parameters: Dict[str, Any], path: Path) -> None:
    """Write parameters bit by bit as they are.

    Args:
        parameters: tensors by the model's names; may be mapped from a file, of which no copy is made.
    """
    from safetensors.torch import save_file

    seen, tensors = set(), {}
    for name, tensor in parameters.items():
        shared = tensor.data_ptr() in seen  # such as of a quantizer that is used twice
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(mode)  # the library's files can be read by their owner only


def write_torchscript(network: EcgNetwork, description: ModelDescription, path: Path) -> None:
    """Trace a network, for any number of segments of the description's length, on the CPU."""
    with warnings.catch_warnings(), torch.no_grad():
        # the number of frames becomes a constant, as it should
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        # what it computes is compared with the model itself, so it is not traced once more to be checked
        traced = torch.jit.trace(network, probe(description, segments=2, shortened=True), check_trace=False)
        # where torch's own writer finds no room it ends the process
        size = sum(value.nbytes for value in (*traced.parameters(), *traced.buffers()))
        require_room(path.parent, size + _CODE_BYTES)
        torch.jit.save(traced, str(path))
