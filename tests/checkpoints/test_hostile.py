"""Hostile checkpoints by all that reads one: one line, nothing runs, little memory, no time."""

import resource
import time
import warnings

import pytest
import torch
from made_up_hostile import SECRET, code_cases, file_cases, size_cases, write
from omegaconf import OmegaConf

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.allowed import NAMES
from fairseq_signals_ext.checkpoints.config_conversion import convert_config, list_changes, to_yaml
from fairseq_signals_ext.checkpoints.config_files import read_config
from fairseq_signals_ext.checkpoints.inspecting import inspect_model
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.ensemble import load_ensemble
from fairseq_signals_ext.inference.export import export

_LONGEST = 10  # seconds, on a busy machine; a file takes some 0.1
_MOST_MEMORY = 1_000_000  # kB beside what the first, good one took


def _ensemble(path, **overrides):
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    return load_model_ensemble_and_task([str(path)], overrides or None)


def _as_model_path(path):
    from fairseq_signals_ext.models.ecg_classifier import (
        EcgTransformerClassifier,
        EcgTransformerClassifierConfig,
        resolve_config,
    )

    config = OmegaConf.structured(EcgTransformerClassifierConfig(model_path=str(path), num_labels=3))
    checkpoint = resolve_config(config)
    EcgTransformerClassifier(config).load_pretrained(checkpoint)


def _resume(path, option):
    from fairseq_signals_ext.tasks._starting import starting_point

    options = {"save_dir": str(path.parent), "restore_file": "checkpoint_last.pt", "reset_optimizer": False}
    options.update(continue_once=None, finetune_from_model=None)
    starting_point(OmegaConf.create({**options, option: str(path)}))


def _convert(path):
    converted = convert_config(read_config(path), str(path))
    return to_yaml(converted.sections, path.name) + list_changes(converted.changes)


# what builds something of a file, and what only looks at it, which may say what is in it
BUILDERS = {
    "load": fairseq_signals_ext.load,
    "export": lambda path: export(path, "safetensors", path.parent / "export"),
    "evaluate": lambda path: load_ensemble([path]),
    "fairseq": _ensemble,
    "fairseq for our task": lambda path: _ensemble(path, task="ecg_classification"),
    "model_path": _as_model_path,
    **{
        option: lambda path, option=option: _resume(path, option)
        for option in ("restore_file", "continue_once", "finetune_from_model")
    },
}
LOOKERS = {"inspect": inspect_model, "config convert": _convert}
CODE, SIZES, FILES = code_cases(), size_cases(), file_cases()


def mostly_slow(names, each):
    """Names as parameters: one in `each` for every run of the tests, the others for `pytest -m slow`."""
    return [pytest.param(name, marks=[pytest.mark.slow] if number % each else []) for number, name in enumerate(names)]


def refusal(reader, path, longest=_LONGEST):
    """What a reader says when it refuses a file; None if it takes it."""
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = reader(path)
    except (UserError, SystemExit) as error:
        assert not isinstance(error.__cause__, MemoryError)
        result = str(error)
        assert "\n" not in result and len(result) < 1500 and path.name in result, result
        return result
    except Exception as error:
        # a file that names no task of ours is fairseq's to refuse, as it would without us
        assert reader is _ensemble and not _is_ours(path), repr(error)
        return "refused by fairseq"
    finally:
        assert time.monotonic() - start < longest
    assert SECRET not in str(result)
    return None


def _is_ours(path):
    config = torch.load(path, weights_only=True).get("cfg")
    task = config.get("task") if isinstance(config, dict) else None
    return isinstance(task, dict) and task.get("_name") in NAMES["task"]


@pytest.fixture(scope="module")
def most_memory(registered, tmp_path_factory):
    """kB that the process may have taken at the end; a good file was read by all, so that all is imported."""
    path = write(tmp_path_factory.mktemp("good") / "good.pt", lambda state, canary: None, None)
    for name, reader in {**BUILDERS, **LOOKERS}.items():
        assert refusal(reader, path, longest=120) is None, name  # with the time of importing all libraries
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _MOST_MEMORY


@pytest.mark.parametrize("name", mostly_slow(CODE, 3))
def test_code_never_runs(name, most_memory, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    write(path, CODE[name], canary)
    taken = []
    for reader_name, reader in {**BUILDERS, **LOOKERS}.items():
        said = refusal(reader, path)
        assert not canary.exists(), reader_name
        assert SECRET not in str(said)
        taken += [reader_name] if said is None and reader_name in BUILDERS else []
    # a folder to import is never imported from a config; all else is refused
    assert not taken or name in ("user_dir", "old options beside a config"), taken


@pytest.mark.parametrize("name", mostly_slow(SIZES, 10))
def test_sizes_that_no_model_has(name, most_memory, tmp_path):
    path = write(tmp_path / "hostile.pt", SIZES[name], None)
    said = {reader_name: refusal(reader, path) for reader_name, reader in {**BUILDERS, **LOOKERS}.items()}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most_memory
    assert any(said.values()), "every reader took it"


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_makes(name, most_memory, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "hostile.pt"
    FILES[name](path, canary)
    for reader_name, reader in {**BUILDERS, **LOOKERS}.items():
        assert refusal(reader, path) is not None, reader_name
        assert not canary.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most_memory
