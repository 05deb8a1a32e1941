"""Export as safetensors: all parameters by our names, and the config from which the model is built again."""

from pathlib import Path
from typing import Any, Dict

from fairseq_signals_ext.checkpoints.description import read_description, read_training
from fairseq_signals_ext.checkpoints.reading import Checkpoint
from fairseq_signals_ext.errors import UserError

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


def read_safetensors(folder: Path) -> Checkpoint:
    """What was exported to a folder, as a checkpoint without optimizer, its tensors mapped from the file.

    Raises:
        UserError: it is not such a folder, or its weights are damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _, path = read_description(folder)
    if path.suffix != ".safetensors":
        raise UserError(f"{folder}: holds {path.name}, not the parameters; give the checkpoint, or export it again")
    try:
        parameters = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); export again") from None
    return Checkpoint(path, {"model": parameters, **read_training(folder)})
