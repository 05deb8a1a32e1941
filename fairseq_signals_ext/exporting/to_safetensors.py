"""Export as safetensors: all parameters by our names; `checkpoints.safetensors_folder` reads it again."""

from pathlib import Path
from typing import Any, Dict

WEIGHTS = "model.safetensors"


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
