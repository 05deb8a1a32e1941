"""Predictions without computable metrics are refused in one line."""

import dataclasses

import numpy as np
import pytest
from made_up_predictions import made_up_predictions

from fairseq_signals_ext.common.errors import UserError

GOOD = made_up_predictions(items=10, labels=2)


def with_value(values, value):
    changed = values.copy()
    changed[4, 1] = value
    return changed


def test_good_ones_pass():
    GOOD.check()
    dataclasses.replace(GOOD, targets=with_value(GOOD.targets, 61.5), kind="regression").check()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scores": with_value(GOOD.scores, np.nan)}, "recording 4, label 'label 1': score nan (1 such)"),
        ({"scores": with_value(GOOD.scores, np.inf)}, "recording 4, label 'label 1': score inf (1 such)"),
        ({"targets": with_value(GOOD.targets, 2)}, "recording 4, label 'label 1': target 2 (1 such)"),
        ({"scores": GOOD.scores[:, :1]}, "scores: (10, 1), but there are 10 items and 2 labels"),
        ({"targets": GOOD.targets[:9]}, "targets: (9, 2), but there are 10 items and 2 labels"),
        ({"patient": GOOD.patient[:9]}, "patient: (9,), but there are 10 items"),
    ],
)
def test_bad_ones_are_named(fields, message):
    with pytest.raises(UserError) as caught:
        dataclasses.replace(GOOD, **fields).check()
    assert message in str(caught.value) and "\n" not in str(caught.value)
