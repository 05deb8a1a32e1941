"""Write exports as ONNX, safetensors and TorchScript files."""

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
# 22 gives the same graph but needs onnxruntime 1.20, this one 1.18; onnxruntime 1.32 cannot run the attention that
# torch 2.13 exports for 23 and 24, and torch does not support later ones
OPSET = 21
# a protobuf message is below 2 GiB; larger models have their weights in a second file
_LARGEST_FILE = 2**31 - 2**24
_SMALL = 1024  # bytes
# upper limit for the size of everything but the parameters
_CODE_BYTES = 2**22


def write_onnx(network: EcgNetwork, description: ModelDescription, path: Path) -> None:
    """Write a network for any number of segments of the description's length, and check that the file is valid.

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
        value.const_value = None  # onnxscript never frees the last graph that it processed, and so the network


def _graph(network: EcgNetwork, description: ModelDescription) -> Tuple[Any, List[Any]]:
    """The network as an `onnx_ir.Model`, and its initializers before optimization.

    The model's initializers share the network's memory. Optimization replaces those that it transposes.
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
        node.metadata_props.clear()  # stack traces with local paths
    program.model.metadata_props.update(_facts(description))
    return program.model, traced


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the exporter's log: thousands of lines if fairseq has enabled all logging."""
    former = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(former)


def _facts(description: ModelDescription) -> Dict[str, str]:
    """Metadata that ONNX viewers show."""
    inputs = description.preprocessing
    return {
        "kind": description.kind,
        "label_names": json.dumps(description.label_names),
        "leads": json.dumps(inputs.leads),
        "sample_rate": f"{inputs.sample_rate:g}",
    }


def _write_one_file(model: Any, path: Path) -> None:
    """Check a model and write it tensor by tensor; its large initializers are removed.

    Protobuf merges concatenated messages into one, so the whole model is never in memory
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
    """Check a model with some values as inputs; with all values the checker would need twice the file's memory."""
    import onnx
    from onnx_ir import serde

    inputs = len(model.graph.inputs)
    model.graph.inputs.extend(values)
    onnx.checker.check_model(serde.serialize_model(model), full_check=True)
    del model.graph.inputs[inputs:]


def write_safetensors(parameters: Dict[str, Any], path: Path) -> None:
    """Write parameters without any change of bits.

    Args:
        parameters: tensors by the model's names; memory-mapped ones are not copied.
    """
    from safetensors.torch import save_file

    seen, tensors = set(), {}
    for name, tensor in parameters.items():
        shared = tensor.data_ptr() in seen  # such as a quantizer that is used twice
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, str(path), metadata={"format": "pt"})
    path.chmod(mode)  # the library makes files that only their owner can read


def write_torchscript(network: EcgNetwork, description: ModelDescription, path: Path) -> None:
    """Trace a network, for any number of segments of the description's length, on the CPU."""
    with warnings.catch_warnings(), torch.no_grad():
        # the number of frames becomes a constant, as it should
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        # its outputs are compared with the model later, so torch need not check the trace
        traced = torch.jit.trace(network, probe(description, segments=2, shortened=True), check_trace=False)
        # torch's writer ends the process when the disk is full
        size = sum(value.nbytes for value in (*traced.parameters(), *traced.buffers()))
        require_room(path.parent, size + _CODE_BYTES)
        torch.jit.save(traced, str(path))
