"""Trainings inside the test's own process: a second or two each, and several of them one after the other."""

import warnings
from pathlib import Path
from typing import Any, Dict, List

import torch
from omegaconf import DictConfig, OmegaConf
from running import CONFIGS

import fairseq_signals_ext


def options_of(overrides: List[str], config: str = "tiny", configs: Path = CONFIGS) -> DictConfig:
    """The whole config, as `fairseq-hydra-train` composes it."""
    import hydra
    from fairseq.dataclass.initialize import hydra_init

    hydra_init(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hydra's, on how fairseq uses it
        with hydra.initialize_config_dir(str(configs), version_base="1.1"):
            return hydra.compose(config, overrides=overrides)


def train_here(data: Path, out: Path, *overrides: str, config: str = "tiny", configs: Path = CONFIGS) -> Path:
    """Train as `fairseq-hydra-train` does, without its hydra; returns the folder of checkpoints.

    A user's mistake is a `SystemExit`, whose text is the one line.
    """
    from fairseq_cli.hydra_train import _hydra_main

    given = [f"task.data={data}", f"checkpoint.save_dir={out}"]
    fairseq_signals_ext.register()
    _hydra_main(options_of([*given, *overrides], config, configs))
    return out


def saved(folder: Path, name: str = "checkpoint_last.pt") -> Dict[str, Any]:
    """What is in a checkpoint."""
    return torch.load(folder / name, weights_only=True)


def config_of(state: Dict[str, Any]) -> DictConfig:
    """The config that is in a checkpoint."""
    return OmegaConf.create(state["cfg"])
