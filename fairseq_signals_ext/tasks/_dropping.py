"""Options in a checkpoint that our tasks and criterions do not have: ECG-FM's own, and another version's."""

from dataclasses import fields
from typing import Any, Dict

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import DictConfig, open_dict

_SECTIONS = {"task": TASK_DATACLASS_REGISTRY, "criterion": CRITERION_DATACLASS_REGISTRY}


def drop_unknown_options(state: Dict[str, Any]) -> None:
    """Drop them, in place, from the config of a checkpoint that fairseq has loaded.

    Of a model fairseq does so itself, of a task only after 0.12.2. Sections that are not ours stay as they are.
    """
    config = state.get("cfg") or {}
    for name, registry in _SECTIONS.items():
        section = config.get(name)
        if not isinstance(section, DictConfig):
            continue
        known = registry.get(section.get("_name"))
        if known is None or not known.__module__.startswith("fairseq_signals_ext."):
            continue
        names = {option.name for option in fields(known)}
        with open_dict(section):
            for option in [option for option in section if option not in names]:
                del section[option]
