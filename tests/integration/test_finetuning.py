"""Fine-tuning and validating with fairseq's own commands."""

import csv
import shutil

import numpy as np
import pytest
import torch
from fine_tuning import finetune, finetune_command, validate_command, write_labelled, write_pretrained
from made_up import write_label_file, write_shards
from running import error_line, logged, run, weights
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from fairseq_signals_ext.common.leads import LEADS
from fairseq_signals_ext.evaluation.predictions import to_recordings
from fairseq_signals_ext.inference.loading import load_model
from fairseq_signals_ext.inference.subsets import Subset, predict_subset


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    return write_pretrained(data, tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def finetuned(data, pretrained, tmp_path_factory):
    out = tmp_path_factory.mktemp("finetuned")
    log = finetune(data, out, pretrained, "++optimization.max_epoch=4", "++criterion.per_label=true")
    return out, log


def checkpoint_of(finetuned, name="checkpoint_best.pt"):
    return finetuned[0] / "checkpoints" / name


def test_validation_during_training_drives_the_best_checkpoint(finetuned):
    log = finetuned[1]
    areas = logged(log, "valid_auprc")
    assert len(areas) == 4 and len(logged(log, "valid_auroc")) == 4
    assert logged(log, "valid_best_auprc")[-1] == max(areas)
    assert logged(log, "valid_defined_labels") == [3.0] * 4
    best = torch.load(checkpoint_of(finetuned), weights_only=True)
    # fairseq prints six digits
    assert best["extra_state"]["best"] == best["extra_state"]["val_loss"] == pytest.approx(max(areas), rel=1e-5)
    for label in range(3):
        assert len(logged(log, f"valid_auroc_label_{label}")) == 4
    mean = [np.mean([logged(log, f"valid_auroc_label_{label}")[epoch] for label in range(3)]) for epoch in range(4)]
    assert mean == pytest.approx(logged(log, "valid_auroc"), abs=2e-6)


def test_checkpoint_needs_nothing_else(finetuned, data, pretrained, tmp_path):
    """Architecture and label names are in it: the pretrained file may be gone."""
    state = torch.load(checkpoint_of(finetuned), weights_only=True)
    assert state["task_state"]["label_names"] == ["label_0", "label_1", "label_2"]
    assert state["cfg"]["model"]["encoder_layers"] == 1 and state["cfg"]["model"]["num_labels"] == 3
    moved = tmp_path / "moved.pt"
    state["cfg"]["model"]["model_path"] = "gone.pt"
    torch.save(state, moved)
    done = run(validate_command(data, moved, "valid,test"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(logged(done.stdout, "valid_auroc")) == len(logged(done.stdout, "test_auroc")) == 1


def test_checkpoint_says_what_it_is_good_for(finetuned, data):
    state = torch.load(checkpoint_of(finetuned), weights_only=True)["task_state"]
    assert state["leads"] == list(LEADS)
    assert (state["sample_rate"], state["segment_samples"]) == (500.0, 2500)
    assert state["threshold_rule"] == "f1 on valid"
    model = load_model(checkpoint_of(finetuned))
    predictions = to_recordings(predict_subset(model, Subset(model, data, "valid")))
    for label, threshold in enumerate(state["thresholds"]):
        known = ~np.isnan(predictions.targets[:, label])
        score, target = predictions.scores[known, label], predictions.targets[known, label]
        best = max(f1_score(target, score >= other) for other in score)
        assert f1_score(target, score >= threshold) == pytest.approx(best, abs=1e-12)


def test_thresholds_are_not_another_model_s(finetuned, data, tmp_path):
    options = (f"++checkpoint.finetune_from_model={checkpoint_of(finetuned)}", "++dataset.disable_validation=true")
    finetune(data, tmp_path, "null", *options, "++optimization.max_update=1")
    saved = torch.load(tmp_path / "checkpoints/checkpoint_last.pt", weights_only=True)
    assert "thresholds" not in saved["task_state"] and "threshold_rule" not in saved["task_state"]


def test_validate_gives_the_training_s_figures(finetuned, data):
    done = run(validate_command(data, checkpoint_of(finetuned, "checkpoint_last.pt"), "valid"))
    for metric in ("auroc", "auprc", "segment_auroc", "loss", "accuracy"):
        assert logged(done.stdout, f"valid_{metric}")[-1] == pytest.approx(
            logged(finetuned[1], f"valid_{metric}")[-1], rel=1e-5
        ), metric


def scores_of_golden(golden_folder, segmented, paths):
    """Scores by the golden model itself, one segment at a time."""
    import scipy.io
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), _, _ = load_model_ensemble_and_task([str(golden_folder / "tiny_finetuned.pt")])
    contents = [scipy.io.loadmat(segmented / path) for path in paths]
    with torch.no_grad():
        feats = torch.from_numpy(np.stack([content["feats"] for content in contents]).astype(np.float32))
        logits = torch.cat([model.eval()(batch)["out"] for batch in feats.split(5)])
    return torch.sigmoid(logits.double()).numpy(), np.array([int(content["idx"].item()) for content in contents])


def test_validate_golden_checkpoint_on_data_of_ecg_fm(ecg_data, golden_folder, registered, tmp_path):
    """ECG-FM's manifest, `.mat` files, labels and checkpoint; what is printed equals scikit-learn on them."""
    folder = ecg_data / "code15_ecg_fm"
    with open(folder / "segmented.csv") as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    lines = [str(folder / "segmented"), *(f"{path}\t2500" for path in paths)]
    (tmp_path / "test.tsv").write_text("\n".join(lines) + "\n")
    # the checkpoint has 17 labels, the data 8: the others are not known
    y = np.full((10, 17), np.nan)
    y[:, :8] = np.load(folder / "labels" / "y.npy")
    write_label_file(tmp_path / "labels", y)
    options = ["--label-file", tmp_path / "labels" / "y.npy"]
    done = run(validate_command(tmp_path, golden_folder / "tiny_finetuned.pt", "test", *options))
    assert done.returncode == 0, done.stderr[-2000:]

    scores, idx = scores_of_golden(golden_folder, folder / "segmented", paths)
    recordings = np.stack([scores[idx == number].mean(0) for number in range(10)])
    labels = [label for label in range(8) if 0 < y[:, label].sum() < 10]
    assert logged(done.stdout, "test_defined_labels") == [len(labels)]
    for name, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
        of_segments = np.mean([metric(y[idx, label], scores[:, label]) for label in labels])
        of_recordings = np.mean([metric(y[:, label], recordings[:, label]) for label in labels])
        assert logged(done.stdout, f"test_segment_{name}")[0] == pytest.approx(of_segments, abs=1e-9)
        assert logged(done.stdout, f"test_{name}")[0] == pytest.approx(of_recordings, abs=1e-9)


def test_labels_of_another_collection_are_matched_by_name(finetuned, data, tmp_path):
    """Another order, one label less and one more: the figures of the common labels stay."""
    shutil.copytree(data, tmp_path / "data")
    y = np.load(data / "labels" / "y.npy")
    others = np.stack([y[:, 2], np.zeros(16), y[:, 0]], axis=1)
    write_label_file(tmp_path / "data" / "labels", others, ["label_2", "other", "label_0"])
    options = ["--label-file", tmp_path / "data" / "labels"]
    done = run(validate_command(tmp_path / "data", checkpoint_of(finetuned), "test", *options))
    whole = run(validate_command(data, checkpoint_of(finetuned), "test"))
    assert logged(done.stdout, "test_defined_labels") == [2.0]
    for label in (0, 2):
        name = f"test_auroc_label_{label}"
        assert logged(done.stdout, name) == logged(whole.stdout, name) != []


def test_data_of_another_sample_rate_are_refused(finetuned, tmp_path):
    write_shards(tmp_path, [4000] * 4, split="test", sample_rate=400)
    write_label_file(tmp_path / "labels", np.eye(4, 3), ["label_0", "label_1", "label_2"])
    options = ["--label-file", tmp_path / "labels"]
    line = error_line(run(validate_command(tmp_path, checkpoint_of(finetuned), "test", *options)))
    assert "400 Hz where 500 Hz is wanted" in line


def test_linear_probe_leaves_the_encoder_bit_for_bit(data, pretrained, tmp_path):
    options = ["++model.linear_probe=true", "++optimization.max_epoch=2", "++model.dropout=0.3"]
    finetune(data, tmp_path, pretrained, *options)
    before, after = weights(pretrained), weights(tmp_path / "checkpoints" / "checkpoint_last.pt")
    encoder = {name[len("encoder.") :]: value for name, value in after.items() if name.startswith("encoder.")}
    assert len(encoder) > 20
    assert all(torch.equal(value, before[name]) for name, value in encoder.items())
    assert after["proj.bias"].abs().max() > 0


def test_resumed_run_equals_an_unbroken_one(data, pretrained, tmp_path):
    """Also with one random segment an epoch, masked leads and frames, and a best score from before the break."""
    options = [
        "++task.perturbation_mode=[random_leads_masking]",
        "++model.apply_mask=true",
        "++model.mask_prob=0.3",
        "++model.final_dropout=0.2",
        "++checkpoint.patience=50",
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    log = finetune(data, whole, pretrained, *options, "++optimization.max_epoch=4")
    finetune(data, broken, pretrained, *options, "++optimization.max_epoch=2")
    resumed = finetune(data, broken, pretrained, *options, "++optimization.max_epoch=4")
    expected, found = (weights(folder / "checkpoints" / "checkpoint_last.pt") for folder in (whole, broken))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert logged(resumed, "valid_best_auprc")[-1] == logged(log, "valid_best_auprc")[-1]


def test_a_resumed_run_needs_no_pretrained_file_and_keeps_its_labels(data, pretrained, tmp_path):
    copy = shutil.copy(pretrained, tmp_path / "pretrained.pt")
    finetune(data, tmp_path / "run", copy, "++optimization.max_epoch=1")
    copy.unlink()
    finetune(data, tmp_path / "run", copy, "++optimization.max_epoch=2")
    names = ["label_2", "label_1", "label_0"]
    write_label_file(data / "permuted", np.load(data / "labels" / "y.npy")[:, ::-1], names)
    options = [f"task.label_file={data / 'permuted'}", "++optimization.max_epoch=3"]
    line = error_line(run(finetune_command(data, tmp_path / "run", copy, *options)))
    assert "label 0 is 'label_2', but the checkpoint was trained with 'label_0' there" in line


def test_the_subset_to_train_on_is_the_one_that_is_named(data, pretrained, tmp_path):
    """Random segments and masked leads are for what is trained on, whatever its name, and never for validation."""
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    shutil.copy(folder / "train.tsv", folder / "fold1.tsv")
    shutil.move(folder / "valid.tsv", folder / "train_valid.tsv")
    options = ["dataset.train_subset=fold1", "dataset.valid_subset=train_valid", "++optimization.max_epoch=1"]
    log = finetune(folder, tmp_path / "run", pretrained, *options)
    assert "fold1.tsv: 16 segments of 5 s" in log and "train_valid.tsv: 40 segments of 5 s" in log
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint_last.pt"
    done = run(validate_command(folder, checkpoint, "fold1,train_valid"))
    # both list the same recordings
    assert logged(done.stdout, "fold1_auroc") == logged(done.stdout, "train_valid_auroc")


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 8])
def test_short_recordings_get_the_same_scores_in_any_batch(golden_folder, tmp_path, size):
    write_shards(tmp_path, [1800, 2500, 1000, 5000], split="test")
    write_label_file(tmp_path / "labels", np.random.default_rng(2).integers(0, 2, (4, 17)))
    options = ["--label-file", tmp_path / "labels", "--batch-size", size]
    done = run(validate_command(tmp_path, golden_folder / "tiny_finetuned.pt", "test", *options))
    one_by_one = run(
        validate_command(tmp_path, golden_folder / "tiny_finetuned.pt", "test", *options[:2], "--batch-size", 2)
    )
    assert logged(done.stdout, "test_loss") == logged(one_by_one.stdout, "test_loss")


def test_early_stopping_by_auroc(data, pretrained, tmp_path):
    """With a learning rate of zero nothing gets better: two epochs of patience end the run in the third."""
    options = ["checkpoint.best_checkpoint_metric=auroc", "++checkpoint.patience=2", "optimization.lr=[0]"]
    log = finetune(data, tmp_path, pretrained, *options, "++optimization.max_epoch=9")
    assert len(logged(log, "valid_auroc")) == 3


@pytest.mark.parametrize(
    "leads", ["I,II", *(pytest.param(leads, marks=pytest.mark.slow) for leads in ("I,II,V1,V2,V3,V4,V5,V6", "II"))]
)
def test_fewer_leads(pretrained, tmp_path, leads):
    """The 12-lead encoder gets zeros for leads that the recordings lack, or that were not chosen."""
    from fairseq_signals_ext.common.leads import parse_leads

    for split in ("train", "valid"):
        write_shards(tmp_path, [5000] * 8, split=split, leads=parse_leads(leads))
    write_label_file(tmp_path / "labels", np.random.default_rng(2).integers(0, 2, (8, 2)))
    log = finetune(tmp_path, tmp_path / "run", pretrained, "++optimization.max_epoch=1")
    assert len(logged(log, "valid_auroc")) == 1


def test_chosen_leads_are_all_that_counts(data, pretrained, tmp_path):
    """With lead II chosen, recordings of lead II alone give the same figures."""
    from fairseq_signals_ext.common.leads import LEADS

    twelve, one = tmp_path / "twelve", tmp_path / "one"
    counts = write_shards(twelve, [5000] * 8, split="train")
    shutil.copy(twelve / "train.tsv", twelve / "valid.tsv")
    write_lead(one, counts, LEADS.index("II"))
    logs = []
    for folder in (twelve, one):
        write_label_file(folder / "labels", np.random.default_rng(2).integers(0, 2, (8, 2)))
        logs.append(
            finetune(folder, folder / "run", pretrained, "++task.leads_to_load=II", "++optimization.max_epoch=2")
        )
    assert logged(logs[0], "valid_loss") == pytest.approx(logged(logs[1], "valid_loss"), rel=1e-4)


def write_lead(folder, counts, lead):
    from fairseq_signals_ext.data.shards import ShardWriter

    lines = [".\n"]
    with ShardWriter(folder / "shards/00000.npy") as writer:
        for row, rows in enumerate(counts):
            scale, zero = np.array([0.001 * (1 + lead / 10)]), np.array([lead * 3.0])
            facts = {"leads": [lead], "scale": scale, "zero": zero, "sample_rate": 500, "patient": f"made-up-{row}"}
            writer.add(rows[lead : lead + 1], idx=row, **facts)
            lines.append(f"shards/00000.npy\t{row}\t{rows.shape[1]}\n")
    for split in ("train", "valid"):
        (folder / f"{split}.tsv").write_text("".join(lines))


LOSSES = {
    "focal": ["++criterion.loss=focal"],
    "asymmetric": ["++criterion.loss=asymmetric", "++criterion.pos_weight=[2,3,4]"],
    "attention pooling": ["++model.pooling=attention", "++model.freeze_finetune_updates=1"],
    "micro": ["++criterion.auc_average=micro", "++task.aggregate=max"],
}


@pytest.mark.slow
@pytest.mark.parametrize("options", LOSSES.values(), ids=LOSSES.keys())
def test_options_train(data, pretrained, tmp_path, options):
    log = finetune(data, tmp_path, pretrained, *options, "++optimization.max_epoch=2")
    losses = logged(log, "train_loss")
    assert len(losses) == 2 and all(np.isfinite(losses))


@pytest.mark.slow
def test_cinc_score_is_logged(ecg_data, data, pretrained, tmp_path):
    """A head that finds nothing but sinus rhythm in all recordings scores 0, by the Challenge's definition."""
    write_label_file(data / "cinc", np.random.default_rng(3).integers(0, 2, (16, 3)), ["AF", "NSR", "SB"])
    weights_file = ecg_data / "cinc2021" / "scoring" / "weights_abbreviations.csv"
    options = [
        f"task.label_file={data / 'cinc'}",
        "++criterion.report_cinc_score=true",
        f"++criterion.weights_file={weights_file}",
        "optimization.lr=[0]",
        "++optimization.max_epoch=1",
    ]
    finetune(data, tmp_path, pretrained, *options)
    path = tmp_path / "checkpoints" / "checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    state["model"]["proj.weight"].zero_()
    state["model"]["proj.bias"].copy_(torch.tensor([-9.0, 9.0, -9.0]))
    torch.save(state, path)
    done = run(validate_command(data, path, "valid"))
    assert logged(done.stdout, "valid_cinc_score") == [0.0], done.stderr[-1000:]


def test_regression(data, pretrained, tmp_path):
    values = np.random.default_rng(4).normal(60, 15, (16, 1))
    values[3] = np.nan
    write_label_file(data / "age", values, ["age"])
    options = [f"task.label_file={data / 'age'}", "++optimization.max_epoch=3", "optimization.lr=[0.001]"]
    log = finetune(data, tmp_path, pretrained, *options, config="age")
    assert all(len(logged(log, f"valid_{metric}")) == 3 for metric in ("mae", "rmse", "r2", "pearson_r"))
    state = torch.load(tmp_path / "checkpoints" / "checkpoint_best.pt", weights_only=True)["task_state"]
    assert state["target_mean"] == pytest.approx([np.nanmean(values)], rel=1e-6)
    # outputs begin near the mean, so the error is near the labels' own spread
    assert logged(log, "valid_mae")[0] < 2 * np.nanmean(abs(values - np.nanmean(values)))
    done = run(validate_command(data, tmp_path / "checkpoints" / "checkpoint_last.pt", "valid", task="ecg_regression"))
    resumed = finetune(data, tmp_path, pretrained, *options, "++optimization.max_epoch=4", config="age")
    assert len(logged(resumed, "valid_mae")) == 4
    assert logged(done.stdout, "valid_mae")[0] == pytest.approx(logged(log, "valid_mae")[-1], rel=1e-4)
