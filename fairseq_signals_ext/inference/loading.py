"""Load a model from a checkpoint of ours or ECG-FM's, from an export, or from the hub."""

import contextlib
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional

from fairseq_signals_ext.checkpoints.description import CONFIG_FILE, ModelDescription, check_weights, read_description
from fairseq_signals_ext.checkpoints.ecg_fm import checkpoint_of
from fairseq_signals_ext.common.errors import MissingPackageError, UserError, how_to_install
from fairseq_signals_ext.inference.backends import OnnxBackend, TorchBackend, TorchScriptBackend
from fairseq_signals_ext.inference.hub import PREFIX, fetch
from fairseq_signals_ext.inference.model import LoadedModel

_ONLY_IN_EXPORTS = (".onnx", ".safetensors")


class _How(NamedTuple):
    """How a model is run: arguments of the backends."""

    device: str
    threads: Optional[int]
    bf16: bool


def load_model(
    source: Any,
    labels: Optional[str] = None,
    device: str = "cpu",
    threads: Optional[int] = None,
    bf16: bool = False,
) -> LoadedModel:
    """See `fairseq_signals_ext.load`."""
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads}: give at least 1")
    how = _How(device, threads, bf16)
    try:
        path = _path_of(source)
        folder = _folder_of_export(path)
        if folder is None:
            return _from_checkpoint(path, str(source), labels, how)
        if labels is not None:
            raise UserError(f"{source}: labels are in the export; leave them out, or export again with --labels")
        return _from_export(folder, str(source), how)
    except ModuleNotFoundError as error:
        hint = how_to_install(error.name or "")
        if hint is None:
            raise
        raise MissingPackageError(f"{source}: {hint}") from None


def load_untrained(
    source: str, seed: int, device: str = "cpu", threads: Optional[int] = None, bf16: bool = False
) -> LoadedModel:
    """Load the model of a checkpoint, or of an export to safetensors, with random weights instead of its own.

    Args:
        seed: weights are initialised as at the start of a training with this seed.
        source, device, threads, bf16: as `fairseq_signals_ext.load`.

    Raises:
        UserError: it cannot be read, or is an export to ONNX or TorchScript.
    """
    from fairseq_signals_ext.checkpoints.describing import describe

    path = _path_of(source)
    folder = _folder_of_export(path)
    if folder is None:
        from fairseq_signals_ext.checkpoints.reading import read_checkpoint

        checkpoint: Any = read_checkpoint(path)
        description = describe(checkpoint, None)
    else:
        from fairseq_signals_ext.checkpoints.safetensors_folder import read_safetensors

        checkpoint, description = read_safetensors(folder), read_description(folder)[0]
    backend = _built(checkpoint, description, _How(device, threads, bf16), seed)
    return LoadedModel(description, backend, source, checkpoint.task_config)


def files_of(source: str) -> List[Path]:
    """The files that a model is loaded from: a checkpoint, or the description and the weights of an export.

    Raises:
        UserError: a file is missing.
    """
    path = _path_of(source)
    folder = _folder_of_export(path)
    files = [path] if folder is None else [folder / CONFIG_FILE, read_description(folder)[1]]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise UserError(f"{missing}: no such file; give a checkpoint, or the folder of an export")
    return files


def _path_of(source: Any) -> Path:
    return checkpoint_of(fetch(source) if isinstance(source, str) and source.startswith(PREFIX) else Path(source))


def is_export(source: Any) -> bool:
    """Whether a local source is an export, which contains its label names."""
    with contextlib.suppress(UserError):
        return _folder_of_export(checkpoint_of(Path(source))) is not None
    return False


def _folder_of_export(path: Path) -> Optional[Path]:
    """The export's folder for a path to an export or its files; None for a checkpoint."""
    if path.is_dir():
        return path
    if path.name == CONFIG_FILE:
        return path.parent
    if path.suffix in _ONLY_IN_EXPORTS:
        _check_is_weights(path)
        return path.parent
    # TorchScript has the suffix of checkpoints; an unrelated config.json beside a checkpoint is ignored
    with contextlib.suppress(UserError):
        return path.parent if read_description(path.parent)[1].name == path.name else None
    return None


def _check_is_weights(path: Path) -> None:
    """Check that a file contains the weights that its folder's description names."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a folder that fairseq-signals-ext export made, or a checkpoint")
    weights = read_description(path.parent)[1]
    if weights.name != path.name:
        raise UserError(f"{path}: the export in its folder is {weights.name}; give that, or the folder")


def _from_checkpoint(path: Path, source: str, labels: Optional[str], how: _How) -> LoadedModel:
    from fairseq_signals_ext.checkpoints.describing import describe
    from fairseq_signals_ext.checkpoints.reading import read_checkpoint

    checkpoint = read_checkpoint(path)
    description = describe(checkpoint, labels)
    return LoadedModel(description, _built(checkpoint, description, how), source, checkpoint.task_config)


def _from_export(folder: Path, source: str, how: _How) -> LoadedModel:
    description, weights = read_description(folder)
    check_weights(folder, weights)
    backend: Any
    task_options: Mapping[str, Any] = {}
    if weights.suffix == ".onnx":
        if how.bf16:
            raise UserError(f"{source}: an ONNX model uses its own precision; leave bf16 out, or use the checkpoint")
        shape = (len(description.preprocessing.leads), description.preprocessing.segment_samples)
        backend = OnnxBackend(weights, description.output_names, shape, how.device, how.threads)
    elif weights.suffix == ".pt":
        if source.startswith(PREFIX):
            raise UserError(f"{source}: is TorchScript, which contains code; use its ONNX or safetensors export")
        backend = TorchScriptBackend(weights, *how)
    elif weights.suffix == ".safetensors":
        from fairseq_signals_ext.checkpoints.safetensors_folder import read_safetensors

        checkpoint = read_safetensors(folder)
        backend, task_options = _built(checkpoint, description, how), checkpoint.task_config
    else:
        raise UserError(f"{folder / CONFIG_FILE}: weights {weights.name!r} are of no known kind; export again")
    return LoadedModel(description, backend, source, task_options)


def _built(checkpoint: Any, description: ModelDescription, how: _How, seed: Optional[int] = None) -> TorchBackend:
    """Build the network of a checkpoint; needs fairseq."""
    from fairseq_signals_ext.common.requirements import require_fairseq

    require_fairseq()
    from fairseq_signals_ext.inference.network import build_network

    return TorchBackend(build_network(checkpoint, description, seed), *how)
