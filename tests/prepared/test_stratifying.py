"""Stratified splits and folds: the same share of each label everywhere, and whole patients."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from made_up_tables import SUBSETS, check_whole, split, subset_of, write_table


def write_labels(folder, y):
    folder.mkdir(parents=True)
    np.save(folder / "y.npy", y)
    (folder / "label_def.csv").write_text("name\n" + "".join(f"label {number}\n" for number in range(y.shape[1])))
    return folder


def test_stratified_subsets_have_the_same_share_of_each_label(tmp_path):
    rng = np.random.default_rng(0)
    idx = np.arange(0, 4000, 2)  # gaps: y has rows that the table does not
    patients = rng.integers(0, 1000, 2000)
    rare = np.isin(patients, rng.choice(1000, 20, replace=False))  # all of these patients' recordings have it
    y = np.zeros((4000, 3))
    y[idx] = np.stack([rare, rng.random(2000) < 0.3, rng.random(2000) < 0.05], axis=1)
    y[rng.choice(idx, 300, replace=False), 2] = np.nan
    table = write_table(tmp_path, 2000, idx=idx, patient=[f"p{patient}" for patient in patients])
    labels = write_labels(tmp_path / "labels" / "L", y)
    found, summary = split(tmp_path, table, stratify=labels, subsets=[50])
    check_whole(found, summary, table)
    of_patient = pd.DataFrame(y[idx]).groupby(patients).max()
    part = pd.Series(subset_of(found)).rename(lambda number: patients[number // 2])
    part = part[~part.index.duplicated()]
    positives = {name: of_patient.loc[part.index[part == name]].sum() for name in SUBSETS}
    for label, deviation in enumerate((1, 3, 3)):
        total = sum(positives[name][label] for name in SUBSETS)
        assert total > 15
        for name, fraction in zip(SUBSETS, (0.8, 0.1, 0.1)):
            assert positives[name][label] == pytest.approx(fraction * total, abs=deviation)
    unknown = of_patient[2].isna()
    assert unknown[part.index[part == "test"]].sum() == pytest.approx(0.1 * unknown.sum(), abs=3)
    half = {patients[number // 2] for number in found["train_50"]}
    assert of_patient.loc[sorted(half), 0].sum() == pytest.approx(positives["train"][0] / 2, abs=1)
    patients_of_train = part.index[part == "train"]
    assert len(half) == pytest.approx(len(patients_of_train) / 2, abs=3)
    # the first of the table must not all go to train, as they do if the method sees them in order
    assert 60 < sum(number < 1000 for number in found["test"] + found["valid"]) < 140
    other = split(tmp_path, table, "other", stratify=labels, seed=2)[0]
    again = split(tmp_path, table, "again", stratify=labels, subsets=[50])[0]
    by_name = split(tmp_path, table, "by_name", stratify=labels.relative_to(tmp_path / "labels"), subsets=[50])[0]
    assert again == by_name == found and other["test"] != found["test"]
    assert json.loads((tmp_path / "splits" / "s" / "split.json").read_text())["settings"]["stratify"] == "L"


@pytest.mark.parametrize("seed", range(4))
def test_unknown_labels_are_distributed_too(tmp_path, seed):
    table = write_table(tmp_path, 40)
    labels = write_labels(tmp_path / "labels" / "L", np.where(np.arange(40) < 10, np.nan, 0)[:, None])
    found = split(tmp_path, table, stratify=labels, fractions=(0.5, 0.5, 0), seed=seed)[0]
    assert [sum(idx < 10 for idx in found[name]) for name in ("train", "valid")] == [5, 5]


@pytest.mark.parametrize("stratified", [False, True])
def test_each_recording_is_in_one_valid_of_the_folds(tmp_path, stratified):
    patients = [f"p{number % 40}" for number in range(120)]
    table = write_table(tmp_path, 120, patient=patients)
    y = np.repeat([[1.0], [0.0], [0.0], [0.0]], 10, axis=0)[np.arange(120) % 40]
    asked = {"stratify": write_labels(tmp_path / "labels" / "L", y)} if stratified else {}
    found, summary = split(tmp_path, table, kfold=5, subsets=[50], **asked)
    assert sorted(found) == sorted(f"fold-{f}/{name}" for f in range(5) for name in ("train", "train_50", "valid"))
    valid = Counter(idx for fold in range(5) for idx in found[f"fold-{fold}/valid"])
    assert valid == dict.fromkeys(range(120), 1)
    for fold in range(5):
        inside, outside = (found[f"fold-{fold}/{name}"] for name in ("valid", "train"))
        assert sorted(inside + outside) == list(range(120)) and len(inside) == 24
        assert not {patients[idx] for idx in inside} & {patients[idx] for idx in outside}
        assert set(found[f"fold-{fold}/train_50"]) < set(outside)
        assert not stratified or y[inside].sum() == 6
    assert not list((tmp_path / "splits" / "s").glob("*.tsv")) and summary.notes["shared_patients"] == 0
