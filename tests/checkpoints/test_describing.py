"""What a checkpoint says of itself, and what is not believed."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from made_up_checkpoints import made_up_checkpoint

from fairseq_signals_ext.checkpoints.describing import describe, task_state_of
from fairseq_signals_ext.checkpoints.ecg_fm import to_ecg_fm
from fairseq_signals_ext.checkpoints.reading import Checkpoint, read_checkpoint
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION


def changed(checkpoint, state=None, **task):
    """The same with another task's state, and other options of the task."""
    config = {**checkpoint.config, "task": {**checkpoint.task_config, **task}}
    saved = checkpoint.task_state if state is None else state
    return Checkpoint(checkpoint.path, {**checkpoint.state, "cfg": config, "task_state": saved})


SLOW_RATE = {
    **{"sample_rate": 250.0, "leads": ["I", "II"], "loaded_leads": ["II"], "segment_samples": 1000},
    **{"stride_samples": 1250, "standardization": "segment", "label_names": ["A", "B", "C"]},
    **{"aggregation": ["mean", "max", "mean"], "thresholds": [0.1, 0.2, 0.3], "threshold_rule": "f1 on valid"},
}


def test_state_says_it_all():
    description = describe(changed(made_up_checkpoint(), SLOW_RATE))
    assert task_state_of(description) == SLOW_RATE


@pytest.mark.parametrize("kind", ["classification", "pretraining"])
def test_format_of_ecg_fm_keeps_what_is_said(kind):
    state = SLOW_RATE if kind == "classification" else {key: SLOW_RATE[key] for key in list(SLOW_RATE)[:6]}
    ours = changed(made_up_checkpoint(kind), state)
    description = describe(ours)
    there = Checkpoint(Path("there.pt"), to_ecg_fm(ours, description))
    again = describe(there)
    facts = ("kind", "preprocessing", "label_names", "thresholds", "threshold_rule", "aggregation")
    assert {fact: getattr(again, fact) for fact in facts} == {fact: getattr(description, fact) for fact in facts}
    # what the framework itself knows of it
    assert there.task_config["sample_rate"] == 250.0 and there.task_config["max_sample_size"] == 1000


def test_thresholds_are_of_classifications():
    state = {**made_up_checkpoint("regression").task_state, "thresholds": [0.1, 0.2, 0.3], "threshold_rule": "f1"}
    assert describe(changed(made_up_checkpoint("regression"), state)).thresholds is None


def test_own_names_are_not_overridden(tmp_path):
    (tmp_path / "label_def.csv").write_text("name\nC\nB\nA\n")
    with pytest.raises(UserError, match="its labels are not those of made_up.pt, A, B, C"):
        describe(made_up_checkpoint(), str(tmp_path))


def named(folder, golden_folder, name):
    return read_checkpoint(Path(shutil.copy(golden_folder / "tiny_finetuned.pt", folder / name)))


def test_names_of_the_published_classifier(golden_folder, tmp_path, caplog):
    published = named(tmp_path, golden_folder, "mimic_iv_ecg_finetuned.pt")
    assert describe(published).label_names == tuple(ECG_FM_AGGREGATION)
    assert set(describe(published).aggregation) == {"mean", "max"}
    for name in ("mimic_iv_ecg_finetuned_on_mine.pt", "other.pt"):
        unnamed = describe(named(tmp_path, golden_folder, name))
        assert unnamed.label_names[:2] == ("label_0", "label_1") and not unnamed.names_are_known
        assert f"{name}: does not contain its 17 label names" in caplog.text
    (tmp_path / "label_def.csv").write_text("name\n" + "".join(f"mine {label}\n" for label in range(17)))
    assert describe(published).label_names[:2] == ("mine 0", "mine 1")  # a file beside it counts more


def test_a_rate_that_is_assumed_is_said(caplog):
    silent = changed(made_up_checkpoint("pretraining"), {}, sample_rate=None, max_sample_size=None)
    assert describe(silent).preprocessing.sample_rate == 500
    assert "contains no sample rate; 500 Hz, ECG-FM's, is assumed" in caplog.text


def test_inputs_that_cannot_be_made_are_said(caplog):
    describe(changed(made_up_checkpoint(), filter=True, mean_path="mean.npy"))
    assert "task.filter=True, which is not done here" in caplog.text
    assert "task.mean_path=mean.npy, which is not done here" in caplog.text


def test_no_folders_of_the_machine():
    model = {**made_up_checkpoint().config["model"], "model_path": "/home/somebody/base.pt"}
    ours = changed(made_up_checkpoint(), data="/home/somebody/data")
    ours = Checkpoint(ours.path, {**ours.state, "cfg": {**ours.config, "model": model}})
    assert "somebody" not in str(describe(ours).provenance)
    assert describe(ours).provenance["pretrained"] == "base.pt"


def test_other_tasks():
    with pytest.raises(UserError, match="is of task 'audio_finetuning'; use one of ecg_classification"):
        describe(changed(made_up_checkpoint(), _name="audio_finetuning"))


def test_description_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        describe(made_up_checkpoint()).kind = "regression"
