"""Hostile checkpoints by the real commands: each ends with one line, and nothing of the file runs."""

import pytest
from fine_tuning import finetune_command, validate_command, write_labelled
from made_up_hostile import SECRET, code_cases, size_cases, write
from running import BIN, error_line, run_measured, user_dir

pytestmark = pytest.mark.slow

CODE, SIZES = code_cases(), size_cases()
_THRESHOLDS = "task_state.thresholds=['a', 'b', 'c']"
_OLD = "old options beside a config"
CHOSEN = {
    **{name: CODE[name] for name in ("wav2vec2 conv_feature_layers", "fconv encoder_layers", "criterion", "groups")},
    **{
        name: CODE[name] for name in ("wav2vec conv_aggregator_layers in ECG-FM's args", "decode", "env in a criterion")
    },
    **{name: CODE[name] for name in (_OLD, "options of an old fairseq", "a task of fairseq")},
    **{name: SIZES[f"model.{name}"] for name in ("encoder_layers=1000000", "num_labels=1000000000", "dropout=nan")},
    **{name: SIZES[name] for name in (_THRESHOLDS, "tensor expanded", "many", "circle")},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("data"))


def commands(data, path, out):
    """By what they are about."""
    train = {
        option: finetune_command(data, out / option, path, f"++checkpoint.{option}={path}")
        for option in ("restore_file", "finetune_from_model", "continue_once")
    }
    without_task = ["--user-dir", user_dir(), "--path", path, "--batch-size", 5, "--cpu"]
    evaluate = ["evaluate", path, "--data", data, "--subset", "test", "--out", out / "evaluated", "--device", "cpu"]
    return {
        "fairseq-validate": validate_command(data, path, "test"),
        "fairseq-validate without a task": [str(BIN / "fairseq-validate"), str(data), *map(str, without_task)],
        "evaluate": [str(BIN / "fairseq-signals-ext"), *map(str, evaluate)],
        "model_path": finetune_command(data, out / "model_path", path),
        **train,
    }


@pytest.mark.parametrize("name", CHOSEN)
def test_real_commands(name, data, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", SECRET)
    canary = tmp_path / "canary"
    path = write(tmp_path / "hostile.pt", CHOSEN[name], canary)
    for command_name, command in commands(data, path, tmp_path).items():
        done, most = run_measured(command)
        assert not canary.exists(), command_name
        assert SECRET not in done.stdout + done.stderr, command_name
        if done.returncode == 0:
            # thresholds are not used to validate, nor to go on; an encoder is taken without its file's old options
            assert name == _THRESHOLDS or (name, command_name) == (_OLD, "model_path"), command_name
        elif command_name != "fairseq-validate without a task":  # there it is stock fairseq's task that asks
            # or of what does not fit the data here, where the file itself is taken
            assert "hostile.pt" in error_line(done) or name in (_OLD, _THRESHOLDS), command_name
        assert most < 2_000_000, f"{command_name}: {most} kB"
