"""The options of a whole training, and how they were given: where the command was typed, and what was typed.

hydra starts a training in a folder of its own, and a path that was typed is not meant from there.
"""

from pathlib import Path
from typing import Any, List, Optional

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from fairseq_signals_ext.checkpoints.config_differences import PATHS
from fairseq_signals_ext.errors import UserError

# what hydra leaves in the folder that it starts a training in
_HYDRA, _OVERRIDES = Path(".hydra/hydra.yaml"), Path(".hydra/overrides.yaml")
LAST = "checkpoint_last.pt"  # fairseq's default, and no path: it is looked for in `checkpoint.save_dir`


def all_options(task_cfg: Any) -> Optional[DictConfig]:
    """The config, of all sections, that a task's is a part of; None for a task that has none around it."""
    root = task_cfg._get_root() if isinstance(task_cfg, DictConfig) else None
    return root if isinstance(root, DictConfig) and "checkpoint" in root else None


def resolve_paths(task_cfg: Any, model_cfg: Any) -> None:
    """Make the paths of files to read absolute, in place: from where the command was typed, else from hydra's folder.

    Args:
        task_cfg: of the task, which is merged from its section and no longer the same.
        model_cfg: of the model.

    Raises:
        UserError: a file is in neither place.
    """
    options = all_options(task_cfg)
    typed_in = _folder_of_command(options)
    if options is None or typed_in is None or typed_in == Path.cwd():
        return
    # fairseq's options are copied to the task's
    others = {"task": [task_cfg], "checkpoint": [task_cfg, options.task], "model": [model_cfg]}
    for path in PATHS:
        name, option = path.split(".")
        if name != "common":  # the user-dir, which fairseq has found
            for section in (options[name], *others.get(name, [])):
                _resolve(section, option, path, typed_in)


def _resolve(section: Any, option: str, name: str, typed_in: Path) -> None:
    if option not in section or OmegaConf.is_missing(section, option):
        return
    value = section[option]
    if not isinstance(value, str) or not value or value == LAST or Path(value).is_absolute():
        return
    found = [folder / value for folder in (typed_in, Path.cwd()) if (folder / value).exists()]
    if not found:
        raise UserError(
            f"{name}={value}: no such file or folder in {typed_in}, where the command was typed, nor in {Path.cwd()}; "
            f"mend {name}"
        )
    with open_dict(section):
        section[option] = str(found[0])


def _folder_of_command(options: Optional[DictConfig]) -> Optional[Path]:
    """Where the command was typed; None without hydra, which alone leaves that folder."""
    if HydraConfig.initialized():
        return Path(HydraConfig.get().runtime.cwd)
    if _is_started_by_hydra(options) and _HYDRA.is_file():
        return Path(OmegaConf.load(_HYDRA).hydra.runtime.cwd)
    return None


def typed(options: Optional[DictConfig]) -> Optional[List[str]]:
    """The overrides of the command line, such as `common.seed=1`, without a `+`; None without hydra."""
    overrides: Any = None
    if HydraConfig.initialized():
        overrides = HydraConfig.get().overrides.task
    elif _is_started_by_hydra(options) and _OVERRIDES.is_file():
        overrides = OmegaConf.load(_OVERRIDES)
    return None if overrides is None else [str(override).lstrip("+") for override in overrides]


def _is_started_by_hydra(options: Optional[DictConfig]) -> bool:
    """Whether this is one of the processes, a GPU each, that fairseq starts without hydra's state."""
    return options is not None and "job_logging_cfg" in options
