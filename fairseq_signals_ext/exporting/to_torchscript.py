"""Export as TorchScript, which runs with torch alone."""

import warnings
from pathlib import Path

import torch

from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.exporting.verifying import probe
from fairseq_signals_ext.files import require_room
from fairseq_signals_ext.inference.network import EcgNetwork

WEIGHTS = "model.pt"
# more than all but the parameters takes
_CODE_BYTES = 2**22


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
