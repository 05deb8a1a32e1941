"""Paths that were typed are meant from where they were typed; hydra starts a training elsewhere."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fairseq_signals_ext.checkpoints.config_differences import PATHS
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.tasks._options import all_options, resolve_paths, typed

FROM_CHECKPOINT = ("restore_file", "finetune_from_model", "continue_once")


@pytest.fixture()
def here(tmp_path, monkeypatch):
    """Folder of the command; the process is in one of hydra's, as fairseq starts it for a GPU."""
    typed_in, run = tmp_path / "typed_in", tmp_path / "run"
    typed_in.mkdir()
    (run / ".hydra").mkdir(parents=True)
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(typed_in)}}}, run / ".hydra" / "hydra.yaml")
    OmegaConf.save(["++common.seed=2", "task.data=data"], run / ".hydra" / "overrides.yaml")
    monkeypatch.chdir(run)
    return typed_in


def options(**given):
    """All sections with all paths, of which these are given as `section__option`."""
    sections = {"job_logging_cfg": {}, "common": {"user_dir": "plugin"}}
    for path in PATHS:
        name, option = path.split(".")
        sections.setdefault(name, {}).setdefault(option, given.get(f"{name}__{option}"))
    sections["checkpoint"].setdefault("restore_file", "checkpoint_last.pt")
    sections["task"].update({option: sections["checkpoint"][option] for option in FROM_CHECKPOINT})
    return OmegaConf.create(sections)


def resolve(config):
    resolve_paths(config.task, config.model)
    return config


@pytest.mark.parametrize("path", [path for path in PATHS if not path.startswith("common.")])
def test_every_path(here, path):
    (here / "a").mkdir()
    (here / "a" / "file").touch()
    name, option = path.split(".")
    config = resolve(options(**{f"{name}__{option}": "a/file"}))
    assert config[name][option] == str(here / "a" / "file")
    if option in FROM_CHECKPOINT:
        assert config.task[option] == str(here / "a" / "file")


def test_a_path_from_hydra_s_folder(here):
    Path("there").touch()
    assert resolve(options(task__data="there")).task.data == os.path.join(os.getcwd(), "there")
    (here / "there").touch()
    assert resolve(options(task__data="there")).task.data == str(here / "there")


@pytest.mark.parametrize("name", ["task__data", "checkpoint__restore_file", "model__model_path"])
def test_a_path_that_is_nowhere(here, name):
    with pytest.raises(UserError, match=f"{name.replace('__', '.')}=nowhere.pt: no such .* {here}, .* {os.getcwd()}"):
        resolve(options(**{name: "nowhere.pt"}))


def test_what_is_no_relative_path(here):
    given = {"task__data": "/nowhere", "checkpoint__restore_file": "checkpoint_last.pt", "model__model_path": "???"}
    config = resolve(options(**given, criterion__pos_weight=[1, 2]))
    assert config.task.data == "/nowhere" and config.checkpoint.restore_file == "checkpoint_last.pt"
    assert config.criterion.pos_weight == [1, 2] and config.task.label_file is None
    assert config.common.user_dir == "plugin"


def test_without_hydra(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve(options(task__data="nowhere"))
    assert config.task.data == "nowhere" and typed(config) is None
    assert all_options({"data": "nowhere"}) is None and all_options(OmegaConf.create({"data": "a"})) is None


def test_what_was_typed(here):
    assert typed(options()) == ["common.seed=2", "task.data=data"]
    config = options()
    del config["job_logging_cfg"]  # not started by hydra, though in a folder of hydra's
    assert typed(config) is None
