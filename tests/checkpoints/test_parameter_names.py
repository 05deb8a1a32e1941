"""Names of ECG-FM's parameters become ours, and back; nothing is overwritten on the way."""

import pytest
import torch

from fairseq_signals_ext.checkpoints.architecture import rename_ecg_fm_parameters, to_ecg_fm_names

POSITION = "encoder.pos_conv.0."
STORED = {
    "old torch": {"weight_g": 1, "weight_v": 2, "bias": 3},
    "new torch": {"parametrizations.weight.original0": 1, "parametrizations.weight.original1": 2, "bias": 3},
}


def tensors(prefix, names):
    return {prefix + name: torch.tensor(value) for name, value in names.items()}


@pytest.mark.parametrize("prefix", ["", "encoder."])
@pytest.mark.parametrize("own", STORED)
@pytest.mark.parametrize("theirs", STORED)
@pytest.mark.parametrize("position", ["conv_pos.pos_conv.0.", POSITION])
def test_there_and_back(prefix, own, theirs, position):
    state = tensors(prefix + position, STORED[theirs])
    rename_ecg_fm_parameters(state, tensors(POSITION, STORED[own]), prefix)
    assert state == tensors(prefix + POSITION, STORED[own])
    assert to_ecg_fm_names(state, prefix) == tensors(prefix + "conv_pos.pos_conv.0.", STORED["new torch"])


def test_a_file_with_both_names_keeps_them():
    state = {**tensors("conv_pos.pos_conv.0.", {"bias": 1}), **tensors(POSITION, {"bias": 2})}
    rename_ecg_fm_parameters(state, tensors(POSITION, STORED["new torch"]))
    assert len(state) == 2
    both = tensors(POSITION, {**STORED["old torch"], **STORED["new torch"]})
    rename_ecg_fm_parameters(both, tensors(POSITION, STORED["new torch"]))
    assert len(both) == 5
