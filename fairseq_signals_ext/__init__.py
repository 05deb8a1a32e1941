"""ECG-FM as a plugin to stock fairseq; importing this is light and needs neither torch nor fairseq."""

import importlib
import os

__version__ = "0.1.0"


def user_dir() -> str:
    """The plugin's folder, for fairseq's `common.user_dir` and `--user-dir`."""
    return os.path.dirname(os.path.abspath(__file__))


def register() -> None:
    """Make fairseq know the plugin's models, criterions and tasks.

    Needed, once, before fairseq is used from Python; on the command line fairseq's user-dir does the same. Calling it
    again, before or after the user-dir, is harmless.

    Raises:
        UserError: fairseq is not installed, or there is none for this Python.
    """
    from fairseq_signals_ext.requirements import require_fairseq

    require_fairseq()
    modules = ("models.ecg_wav2vec2", "models.ecg_classifier")
    for module in (*modules, "tasks.ecg_pretraining", "tasks.ecg_classification", "tasks.ecg_regression"):
        importlib.import_module(f"{__name__}.{module}")
