"""Read an export to safetensors as a checkpoint."""

from pathlib import Path

from fairseq_signals_ext.checkpoints.description import check_weights, read_description, read_training
from fairseq_signals_ext.checkpoints.reading import Checkpoint, checked
from fairseq_signals_ext.common.errors import UserError


def read_safetensors(folder: Path) -> Checkpoint:
    """Read an exported folder as a checkpoint without optimizer, with tensors mapped from the file.

    Raises:
        UserError: the folder is not such an export, its weights are damaged, or `reading.checked` refuses it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _, path = read_description(folder)
    if path.suffix != ".safetensors":
        raise UserError(f"{folder}: holds {path.name}, not the parameters; give the checkpoint, or export it again")
    check_weights(folder, path)
    try:
        parameters = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); export again") from None
    training = {key: value for key, value in read_training(folder).items() if key in ("cfg", "task_state")}
    return checked(Checkpoint(path, {"model": parameters, **training}), "export it again")
