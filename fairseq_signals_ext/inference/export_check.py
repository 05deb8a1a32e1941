"""Check that an export computes the same as its model: both run on the same segments, each in its own runtime."""

import hashlib
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from torch import Tensor

from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.pooling import mean_over_frames

TOLERANCE = 1e-4
_SEED = 6
Probe = Tuple[Tensor, Tensor]
Outputs = List[Tuple[np.ndarray, ...]]  # per probe the output, if there is one, and the embedding


def probe(description: ModelDescription, segments: int, shortened: bool) -> Probe:
    """Random standardised segments: `source` (float32, N x leads x samples), `padding_mask` (bool, N x samples).

    Args:
        shortened: the first is padded from 3/5 of its length on, others later or not at all.
    """
    inputs = description.preprocessing
    generator = torch.Generator().manual_seed(_SEED + segments)
    source = torch.randn(segments, len(inputs.leads), inputs.segment_samples, generator=generator)
    padding = torch.zeros(segments, inputs.segment_samples, dtype=torch.bool)
    if shortened:
        for row, part in enumerate(np.linspace(0.6, 1.0, segments)):
            padding[row, round(inputs.segment_samples * part) :] = True
        source = source.masked_fill(padding.unsqueeze(1), 0)
    return source, padding


def probes(description: ModelDescription) -> List[Probe]:
    """One and three segments, whole and shortened."""
    return [probe(description, segments, shortened) for segments in (1, 3) for shortened in (False, True)]


def outputs_of_model(model: Any, description: ModelDescription) -> Outputs:
    """Outputs of a fairseq model's own forward for the probes."""
    found = []
    for source, padding in probes(description):
        with torch.no_grad():
            if description.output_name is None:
                result = model.encode(source, padding)
                outputs = [mean_over_frames(result["x"], result["padding_mask"])]
            else:
                result = model(source, padding)
                outputs = [result["out"], mean_over_frames(result["encoder_out"], result["padding_mask"])]
        if description.of_kind.is_scaled:
            outputs[0] = outputs[0] * torch.tensor(description.target_std) + torch.tensor(description.target_mean)
        found.append(tuple(output.numpy() for output in outputs))
    return found


def outputs_of_network(network: Any, description: ModelDescription) -> Outputs:
    """Outputs of an `EcgNetwork`, or of a loaded TorchScript module, for the probes."""
    with torch.no_grad():
        return [tuple(output.numpy() for output in network(*given)) for given in probes(description)]


def outputs_of_torchscript(path: Path, description: ModelDescription) -> Outputs:
    """Outputs of a TorchScript file for the probes."""
    return outputs_of_network(torch.jit.load(str(path), map_location="cpu"), description)


def outputs_of_onnx(path: Path, description: ModelDescription) -> Outputs:
    """Outputs of an ONNX file for the probes, with little memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = description.output_names
    return [
        tuple(session.run(names, {"source": source.numpy(), "padding_mask": padding.numpy()}))
        for source, padding in probes(description)
    ]


def check_finite(expected: Outputs, source: Path) -> None:
    """Check that the model's own outputs are finite.

    Raises:
        UserError: they are not, such as after a training that diverged.
    """
    if not all(np.isfinite(output).all() for outputs in expected for output in outputs):
        raise UserError(
            f"{source}: the model's outputs are not finite, as its weights are not, so nothing was written; take a "
            "checkpoint from before the training diverged"
        )


def differences(found: Outputs, expected: Outputs, description: ModelDescription) -> Dict[str, float]:
    """The largest absolute difference of each output; for regression in standard deviations of the label.

    Raises:
        UserError: a difference is above `TOLERANCE`, or not a number.
    """
    scale = np.array(description.target_std) if description.of_kind.is_scaled else np.ones(1)
    largest = {}
    for place, name in enumerate(description.output_names):
        apart = [np.abs(ours[place] - theirs[place]) for ours, theirs in zip(found, expected)]
        largest[name] = float(
            np.max([np.max(each / (scale if name == description.output_name else 1)) for each in apart])
        )
        if not largest[name] <= TOLERANCE:
            raise UserError(
                f"export: {name} differs by {largest[name]:.1e} from the model's, more than {TOLERANCE:g}, so nothing "
                "was written; try another --to"
            )
    return largest


def own_parameters(model: Any, checkpoint: Checkpoint) -> Dict[str, Tensor]:
    """A checkpoint's parameters unchanged, with the names and order of the model."""
    parameters = checkpoint.parameters
    model.upgrade_state_dict(parameters)
    return {name: parameters[name] for name in model.state_dict()}


def fingerprints(parameters: Dict[str, Tensor]) -> Dict[str, str]:
    """Type, shape and SHA-256 of each parameter: equal if all bits are equal."""
    return {name: _fingerprint(tensor) for name, tensor in parameters.items()}


def _fingerprint(tensor: Tensor) -> str:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}"


def check_same(found: Dict[str, str], expected: Dict[str, str]) -> None:
    """Compare fingerprints.

    Raises:
        UserError: a parameter differs; the message names the first.
    """
    differing = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if differing:
        raise UserError(f"export: parameter {differing[0]} is not what it was, so nothing was written; export again")
