"""ECG-FM as a plugin to stock fairseq; importing this is light and needs neither torch nor fairseq."""

import importlib
import os
from typing import TYPE_CHECKING, Any, List, Optional, Union

if TYPE_CHECKING:
    from fairseq_signals_ext.analysis.saliency import explain
    from fairseq_signals_ext.common.errors import UserError
    from fairseq_signals_ext.inference.many import predict_many
    from fairseq_signals_ext.inference.model import LoadedModel
    from fairseq_signals_ext.pages.ecg_paper import draw_ecg
    from fairseq_signals_ext.pages.recording_report import write_report
    from fairseq_signals_ext.readers import Recording, read_ecg, read_ecgs
    from fairseq_signals_ext.tasks._opening import open_dataset

__version__ = "0.1.0"

__all__ = [
    "Recording",
    "UserError",
    "configs_dir",
    "draw_ecg",
    "explain",
    "load",
    "open_dataset",
    "predict_many",
    "read_ecg",
    "read_ecgs",
    "register",
    "user_dir",
    "write_report",
]

# where public names are that are imported when they are asked for first
_PLACES = {
    "Recording": "readers",
    "UserError": "common.errors",
    "draw_ecg": "pages.ecg_paper",
    "explain": "analysis.saliency",
    "open_dataset": "tasks._opening",
    "predict_many": "inference.many",
    "read_ecg": "readers",
    "read_ecgs": "readers",
    "write_report": "pages.recording_report",
}


if not TYPE_CHECKING:  # which would let any name pass

    def __getattr__(name: str) -> Any:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fairseq_signals_ext.common.errors import MissingPackageError, how_to_install
        from fairseq_signals_ext.common.requirements import quiet_fairseq

        try:
            with quiet_fairseq():
                found = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
        except ModuleNotFoundError as error:
            hint = how_to_install(error.name or "")
            if hint is None:
                raise
            raise MissingPackageError(f"{name}: {hint}") from None
        globals()[name] = found
        return found


def __dir__() -> List[str]:
    return sorted({*globals(), *__all__})


def user_dir() -> str:
    """The plugin's folder, for fairseq's `common.user_dir` and `--user-dir`.

    Examples:
        >>> import fairseq_signals_ext, os
        >>> os.path.basename(fairseq_signals_ext.user_dir())
        'fairseq_signals_ext'
    """
    return os.path.dirname(os.path.abspath(__file__))


def configs_dir(kind: str = "") -> str:
    """The folder of the configs that come with the package.

    Args:
        kind: "pretraining" or "fine_tuning", for `--config-dir` of `fairseq-hydra-train`; "labels", for `--config` of
            `fairseq-signals-ext label link`; nothing for the folder that has all three.

    Examples:
        >>> import fairseq_signals_ext, os
        >>> sorted(os.listdir(fairseq_signals_ext.configs_dir()))
        ['fine_tuning', 'labels', 'pretraining']
    """
    return os.path.join(user_dir(), "configs", kind) if kind else os.path.join(user_dir(), "configs")


def register() -> None:
    """Make fairseq know the plugin's models, criterions and tasks, and those of installed extensions.

    Needed, once, before fairseq is used from Python; on the command line fairseq's user-dir does the same. Calling it
    again, before or after the user-dir, is harmless.

    Raises:
        UserError: fairseq is not installed, or there is none for this Python.

    Examples:
        >>> import fairseq_signals_ext
        >>> fairseq_signals_ext.register()
        >>> from fairseq.tasks import TASK_REGISTRY
        >>> "ecg_classification" in TASK_REGISTRY
        True
    """
    from fairseq_signals_ext.common.plugins import import_installed
    from fairseq_signals_ext.common.requirements import require_fairseq

    require_fairseq()
    models = ("ecg_wav2vec2", "ecg_data2vec", "ecg_jepa", "ecg_cpc", "ecg_classifier")
    modules = [f"models.{model}" for model in models]
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

    Examples:
        >>> import fairseq_signals_ext
        >>> model = fairseq_signals_ext.load("checkpoint_best.pt")
        >>> model.label_names
        ('A', 'B', 'C')
        >>> prediction = model.predict("ecgs/one.hea")
        >>> prediction.scores.shape, prediction.recording.seconds
        ((3,), 10.0)
    """
    from fairseq_signals_ext.inference.loading import load_model

    return load_model(source, labels, device, threads, bf16)
