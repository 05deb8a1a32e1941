"""What a training starts from: a run that was stopped, or another model's checkpoint as a whole.

fairseq's trainer loads parameters and optimizer, but not the task's state: label names, and the scale of a regression.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

_LAST = "checkpoint_last.pt"


@dataclass(frozen=True)
class StartingPoint:
    """A checkpoint that fairseq's trainer will load.

    Attributes:
        path: of it.
        model_config: as it was saved.
        task_state: of the task that saved it.
    """

    path: Path
    model_config: Dict[str, Any]
    task_state: Dict[str, Any]


def starting_point(save_dir: str, restore_file: str, finetune_from_model: Optional[str]) -> Optional[StartingPoint]:
    """The checkpoint that fairseq's trainer will load, by its options of these names; None if it will load none.

    A file that is no checkpoint gives None as well: fairseq refuses it.
    """
    import torch

    path = Path(save_dir) / _LAST if restore_file == _LAST else Path(restore_file)
    if not path.is_file() and finetune_from_model:
        path = Path(finetune_from_model)
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return StartingPoint(path, state["cfg"]["model"], state.get("task_state") or {})
    except Exception:  # torch raises many kinds for a damaged file
        return None
