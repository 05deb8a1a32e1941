"""ECG-FM as a plugin to stock fairseq; importing this is light and needs neither torch nor fairseq."""

import importlib
import os
from typing import TYPE_CHECKING, Optional, Union

if TYPE_CHECKING:
    from fairseq_signals_ext.inference.model import LoadedModel

__version__ = "0.1.0"


def user_dir() -> str:
    """The plugin's folder, for fairseq's `common.user_dir` and `--user-dir`."""
    return os.path.dirname(os.path.abspath(__file__))


def configs_dir(kind: str = "") -> str:
    """The folder of the configs that come with the package.

    Args:
        kind: "pretraining" or "fine_tuning", for `--config-dir` of `fairseq-hydra-train`; "labels", for `--config` of
            `fairseq-signals-ext label link`; nothing for the folder that has all three.
    """
    return os.path.join(user_dir(), "configs", kind) if kind else os.path.join(user_dir(), "configs")


def register() -> None:
    """Make fairseq know the plugin's models, criterions and tasks, and those of installed extensions.

    Needed, once, before fairseq is used from Python; on the command line fairseq's user-dir does the same. Calling it
    again, before or after the user-dir, is harmless.

    Raises:
        UserError: fairseq is not installed, or there is none for this Python.
    """
    from fairseq_signals_ext.common.plugins import import_installed
    from fairseq_signals_ext.common.requirements import require_fairseq

    require_fairseq()
    modules = ("models.ecg_wav2vec2", "models.ecg_data2vec", "models.ecg_jepa", "models.ecg_classifier")
    for module in (*modules, "tasks.ecg_pretraining", "tasks.ecg_classification", "tasks.ecg_regression"):
        importlib.import_module(f"{__name__}.{module}")
    import_installed()


def load(
    source: "Union[str, os.PathLike[str]]",
    labels: Optional[str] = None,
    device: str = "cpu",
    threads: Optional[int] = None,
    bf16: bool = False,
) -> "LoadedModel":
    """A model that is ready to use, from any file; it needs no task, no hydra and no data.

    An ONNX export needs onnxruntime only, TorchScript torch only, a checkpoint or safetensors torch and fairseq.

    Args:
        source: a checkpoint of ours or ECG-FM's (`.pt`), the folder of an export or its `config.json`, or either on the
            Hugging Face hub: `hf:OWNER/REPO/FILE.pt`, `hf:OWNER/REPO/FOLDER`, `hf:OWNER/REPO@REVISION/...`.
            TorchScript is a program: load it only from people whom you trust; from the hub it is refused.
        labels: of a checkpoint that does not hold its label names: a `label_def.csv`, or "ecg-fm"; see
            `checkpoints.describing.describe`.
        device: "cpu", "cuda", "cuda:1", ...; "auto": a GPU if there is one.
        threads: on a CPU; None: as many as torch or onnxruntime takes.
        bf16: matrix products and convolutions in bfloat16, faster on a GPU; probabilities differ by about 0.01.

    Raises:
        UserError: no such file, it cannot be used, or a package is missing (`MissingPackageError`); one line.
    """
    from fairseq_signals_ext.inference.loading import load_model

    return load_model(source, labels, device, threads, bf16)
