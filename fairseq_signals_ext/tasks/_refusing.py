"""Clear refusals of files that are no checkpoints, before fairseq loads them."""

import functools
from pathlib import Path
from typing import Any, Dict, Optional

from fairseq import checkpoint_utils

from fairseq_signals_ext.checkpoints.parameter_names import is_ecg_fm
from fairseq_signals_ext.checkpoints.reading import only_data, read_checkpoint, read_safely
from fairseq_signals_ext.errors import exits_on_user_error
from fairseq_signals_ext.tasks._dropping import drop_unknown_options

_OUR_TASKS = ("ecg_pretraining", "ecg_classification", "ecg_regression")


def refuse_unusable_checkpoints() -> None:
    """Make fairseq say in one line what is wrong with a file that it is to load, and never run what is in it.

    fairseq shows torch's traceback; torch before 2.6 runs what a pickle asks for.
    """
    load = checkpoint_utils.load_checkpoint_to_cpu
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    @exits_on_user_error
    def load_checkpoint_to_cpu(path: str, arg_overrides: Optional[Dict[str, Any]] = None, **kwargs: Any) -> Any:
        if (arg_overrides or {}).get("task") in _OUR_TASKS:
            read_checkpoint(Path(path))
        else:  # perhaps another plugin's
            read_safely(Path(path))
        with only_data():
            state = load(path, arg_overrides, **kwargs)
        drop_unknown_options(state)
        if is_ecg_fm(state["model"]):  # its meters are not fairseq's
            state["extra_state"].pop("metrics", None)
        return state

    checkpoint_utils.load_checkpoint_to_cpu = load_checkpoint_to_cpu
