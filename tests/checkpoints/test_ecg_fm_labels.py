"""What ECG-FM's labels mean is told for models that have them, and for no others."""

import shutil

import pytest

from fairseq_signals_ext.checkpoints.ecg_fm_labels import label_notes, short_label_note
from fairseq_signals_ext.cli import main
from fairseq_signals_ext.evaluation.predictions import ECG_FM_AGGREGATION
from fairseq_signals_ext.labelling.label_sets import read_label_set


@pytest.mark.parametrize(("name", "told"), [("mimic_iv_ecg_finetuned.pt", True), ("other.pt", False)])
def test_inspect_tells_what_the_labels_mean(golden_folder, tmp_path, capsys, name, told):
    checkpoint = shutil.copy(golden_folder / "tiny_finetuned.pt", tmp_path / name)
    assert main(["inspect", str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert ("Accessory pathway conduction: atrial fibrillation or flutter" in printed) is told
    assert ("note " in printed) is told


def test_the_notes_are_of_labels_that_exist():
    names = tuple(ECG_FM_AGGREGATION)
    notes = label_notes(names)
    assert all(note.partition(":")[0] in names for note in notes[1:]) and len(notes) > 5
    assert short_label_note(names) and label_notes(reversed(names)) == notes
    assert label_notes(names[:5]) == [] and short_label_note(("AF", "SR")) is None


def test_the_label_set_has_the_order_of_the_checkpoints():
    assert read_label_set("ecg-fm-17").names == list(ECG_FM_AGGREGATION)
