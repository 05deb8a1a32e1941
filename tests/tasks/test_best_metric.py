"""The metric that chooses the best checkpoint: all that is logged says which values are better, and is defined."""

import types

import numpy as np
import pytest
import torch
from fairseq.logging import metrics
from made_up_checkpoints import SMALL
from omegaconf import OmegaConf

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import (
    BinaryCrossEntropyWithLogitsConfig,
    BinaryCrossEntropyWithLogitsCriterion,
)
from fairseq_signals_ext.criterions.classification import LabelCriterion
from fairseq_signals_ext.criterions.data2vec_with_cmsc import Data2VecWithCmscCriterion
from fairseq_signals_ext.criterions.future_contrast import FutureContrast
from fairseq_signals_ext.criterions.latent_prediction import LatentPrediction
from fairseq_signals_ext.criterions.objective import Better
from fairseq_signals_ext.criterions.regression import RegressionConfig, RegressionCriterion
from fairseq_signals_ext.criterions.softmax import SoftmaxConfig, SoftmaxCriterion
from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.models.ecg_cpc import EcgCpcConfig, EcgCpcModel
from fairseq_signals_ext.models.ecg_data2vec import EcgData2VecConfig, EcgData2VecModel
from fairseq_signals_ext.models.ecg_jepa import EcgJepaConfig, EcgJepaModel
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel
from fairseq_signals_ext.tasks import _best_metric
from fairseq_signals_ext.tasks._best_metric import check_defined, choose_direction

LABELS = ("SB", "AF", "a/b")
FACTS = {"label_names": LABELS}


def task(**others):
    scale = ((0.0,) * 3, (1.0,) * 3)
    return types.SimpleNamespace(label_names=LABELS, target_scale=lambda: scale, **others)


def weights_file(folder):
    (folder / "weights.csv").write_text(",SB,426783006,AF\nSB,1,0.5,0\n426783006,0.5,1,0\nAF,0,0,1\n")
    return str(folder / "weights.csv")


def classification(**options):
    codes = [[], ["426783006"], []]
    return BinaryCrossEntropyWithLogitsCriterion(BinaryCrossEntropyWithLogitsConfig(**options), task(label_codes=codes))


def of_exclusive_classes(**options):
    return SoftmaxCriterion(SoftmaxConfig(**options), task(label_codes=[[], [], []]))


def regression(**options):
    return RegressionCriterion(RegressionConfig(**options), task())


def pretraining(**options):
    options = {"loss_weights": [0.1, 10.0], "log_keys": ["prob_perplexity", "code_perplexity", "temp"], **options}
    return Wav2Vec2WithCmscCriterion(None, **options)


def facts_of(criterion):
    return {**FACTS, "kind": criterion.kind}


class Given(torch.nn.Module):
    """A model of labels with given outputs."""

    def forward(self):
        return {"out": torch.linspace(-3, 3, 60).view(20, 3)}

    def get_logits(self, net_output):
        return net_output["out"]

    def get_targets(self, sample, net_output):
        return sample["label"].float()


def logged_by(criterion, model, sample):
    """Names of all that the criterion's `reduce_metrics` logs, but fairseq's helpers of others."""
    with torch.no_grad():
        _, _, log = criterion.eval()(model, sample)
    log.pop("scores", None)
    with metrics.aggregate(new_root=True) as found:
        type(criterion).reduce_metrics([log])
    return {name for name in found if not name.startswith("_")}


def labels_of(criterion):
    rng = np.random.default_rng(0)
    targets = np.eye(3)[rng.integers(0, 3, 20)]  # one class each, as exclusive ones want
    segments = Predictions(rng.random((20, 3)), targets, np.arange(20), np.arange(20), **facts_of(criterion))
    sample = {"net_input": {}, "label": torch.from_numpy(targets)}
    return logged_by(criterion, Given(), sample) | criterion.validation_metrics(segments).keys()


@pytest.mark.parametrize("options", [{}, {"per_label": True}, {"report_auc": False}, {"report_cinc_score": True}])
def test_classification_declares_all_that_it_logs(options, tmp_path):
    if "report_cinc_score" in options:
        options = {**options, "weights_file": weights_file(tmp_path)}
    criterion = classification(**options)
    undeclared = labels_of(criterion) - criterion.logged(None).keys()
    # areas of labels are known in any case, and logged where asked for
    assert {name for name in undeclared if not name.endswith(LABELS)} == set()
    assert criterion.logged(None).keys() <= labels_of(criterion)


@pytest.mark.parametrize("options", [{"per_label": True}, {"report_auc": False}])
def test_softmax_declares_all_that_it_logs(options):
    criterion = of_exclusive_classes(**options)
    undeclared = labels_of(criterion) - criterion.logged(None).keys()
    assert {name for name in undeclared if not name.endswith(LABELS)} == set()
    assert criterion.logged(None).keys() <= labels_of(criterion)


def test_regression_declares_all_that_it_logs():
    criterion = regression(per_label=True)
    assert labels_of(criterion) == criterion.logged(None).keys()


@pytest.mark.parametrize(
    "of_model, options",
    [
        ({}, {}),
        ({}, {"loss_weights": [0.0, 10.0]}),
        ({}, {"loss_weights": None, "log_keys": None}),
        ({"quantize_targets": False}, {}),
        ({"quantize_input": True, "quantize_targets": False, "same_quantizer": False}, {}),
        ({}, {"reconstruction_weight": 1.0, "log_keys": ["features_pen", "num_vars", "nowhere"]}),
    ],
)
def test_pretraining_declares_all_that_it_logs(of_model, options):
    torch.manual_seed(0)
    of_model = {**SMALL, "encoder_layers": 1, "num_negatives": 6, **of_model}
    model = Wav2Vec2CmscModel(EcgWav2Vec2Config(**of_model)).eval()
    criterion = pretraining(**options)
    if criterion.reconstruction_weight:
        model.add_reconstruction_head()
    mask = torch.zeros(8, 31, dtype=torch.bool)
    mask[:, 4:19] = True
    source = torch.randn(8, 12, 500)
    sample = {
        "id": torch.arange(4).repeat_interleave(2),
        "patient_id": torch.arange(4).repeat_interleave(2),
        "segment": torch.tensor([0, 1] * 4),
        "original": source,
        "net_input": {"source": source, "mask_indices": mask},
    }
    assert logged_by(criterion, model, sample) == criterion.logged(model).keys()


@pytest.mark.parametrize("loss", ["regression", "both"])
def test_data2vec_declares_all_that_it_logs(loss):
    torch.manual_seed(0)
    options = {**SMALL, "encoder_layers": 2, "average_top_k_layers": 2, "num_negatives": 6, "loss": loss}
    model = EcgData2VecModel(EcgData2VecConfig(**options)).eval()
    criterion = Data2VecWithCmscCriterion(None, cmsc_weights=1.0)
    mask = torch.zeros(8, 31, dtype=torch.bool)
    mask[:, 4:19] = True
    sample = {
        "id": torch.arange(4).repeat_interleave(2),
        "patient_id": torch.arange(4).repeat_interleave(2),
        "segment": torch.tensor([0, 1] * 4),
        "net_input": {"source": torch.randn(8, 12, 500), "mask_indices": mask},
    }
    of_training = {"target_std", "target_rank", "ema_decay"}  # while it learns
    assert logged_by(criterion, model, sample) - of_training == criterion.logged(model).keys() - of_training


def test_latent_prediction_declares_all_that_it_logs():
    model = EcgJepaModel(EcgJepaConfig(encoder_layers=1, predictor_layers=1)).eval()
    places = torch.arange(20).expand(8, 1, -1)
    given = {"source": torch.randn(8, 12, 500), "visible_patches": places[..., :4], "masked_patches": places[..., 4:]}
    criterion = LatentPrediction(None)
    assert logged_by(criterion, model, {"id": torch.arange(8), "net_input": given}) == criterion.logged(model).keys()


def test_future_contrast_declares_all_that_it_logs():
    sizes = {"encoder_layers": 1, "encoder_embed_dim": 16, "conv_feature_layers": "[(8, 10, 10)]"}
    model = EcgCpcModel(EcgCpcConfig(**sizes, num_negatives=5)).eval()
    criterion = FutureContrast(None)
    sample = {"id": torch.arange(8), "net_input": {"source": torch.randn(8, 12, 500)}}
    assert logged_by(criterion, model, sample) == criterion.logged(model).keys()


def test_every_criterion_of_ours_is_tried_here(registered):
    from fairseq.criterions import CRITERION_REGISTRY

    ours = {known for known in CRITERION_REGISTRY.values() if known.__module__.startswith("fairseq_signals_ext.")}
    of_labels = {BinaryCrossEntropyWithLogitsCriterion, RegressionCriterion, SoftmaxCriterion}
    assert ours == {*of_labels, Wav2Vec2WithCmscCriterion, Data2VecWithCmscCriterion, LatentPrediction, FutureContrast}
    assert all(issubclass(known, LabelCriterion) or hasattr(known, "logged") for known in ours)


def options(metric, maximize=False, keep=0, **others):
    checkpoint = {
        "best_checkpoint_metric": metric,
        "maximize_best_checkpoint_metric": maximize,
        "keep_best_checkpoints": keep,
    }
    scheduler = {"_name": "reduce_lr_on_plateau", "maximize_best_checkpoint_metric": maximize}
    return OmegaConf.create({"checkpoint": checkpoint, "lr_scheduler": scheduler, **others})


CHOICES = [
    (classification(per_label=True), "loss", False),
    (classification(per_label=True), "auprc_AF", True),
    (classification(), "exact_match", True),
    (regression(), "mae", False),
    (regression(), "pearson_r", True),
    (regression(per_label=True), "rmse_SB", False),
]


@pytest.mark.parametrize("criterion, metric, highest", CHOICES)
@pytest.mark.parametrize("given", [False, True])
def test_the_direction_is_that_of_the_metric(criterion, metric, highest, given, monkeypatch, caplog):
    """Whatever a config file says: it may be that of another metric."""
    monkeypatch.setattr(_best_metric, "typed", lambda _: ["common.seed=1"])
    config = options(metric, given)
    choose_direction(config, criterion, None)
    assert config.checkpoint.maximize_best_checkpoint_metric is highest
    assert config.lr_scheduler.maximize_best_checkpoint_metric is highest
    assert (f"maximize_best_checkpoint_metric={str(highest).lower()}" in caplog.text) == (given != highest)


@pytest.mark.parametrize("criterion, metric, highest", CHOICES)
def test_the_command_line_cannot_say_the_contrary(criterion, metric, highest, monkeypatch):
    monkeypatch.setattr(_best_metric, "typed", lambda _: ["checkpoint.maximize_best_checkpoint_metric=..."])
    choose_direction(options(metric, highest), criterion, None)
    with pytest.raises(UserError, match=f"best_checkpoint_metric={metric} .*maximize_best_checkpoint_metric="):
        choose_direction(options(metric, not highest), criterion, None)


def test_a_flag_of_fairseq_train_is_typed():
    with pytest.raises(UserError, match="best_checkpoint_metric=loss"):
        choose_direction(options("loss", True), classification(), None)
    config = options("auroc", False)
    choose_direction(config, classification(), None)
    assert config.checkpoint.maximize_best_checkpoint_metric


@pytest.mark.parametrize("metric", ["nowhere", "auroc_AF", "defined_labels", "cinc_score", "num_updates", "bsz"])
def test_what_is_not_logged_or_says_nothing_of_a_model(metric):
    with pytest.raises(UserError, match=f"best_checkpoint_metric={metric} .* use loss, accuracy"):
        choose_direction(options(metric), classification(), None)


def test_other_criterions_keep_their_metrics(monkeypatch):
    config = options("bleu", True)
    choose_direction(config, object(), None)
    assert config.checkpoint.maximize_best_checkpoint_metric
    monkeypatch.setattr(_best_metric, "typed", lambda _: [])
    config = options("nll_loss", True)
    choose_direction(config, object(), None)
    assert not config.checkpoint.maximize_best_checkpoint_metric


def test_a_metric_whose_name_no_file_can_have():
    choose_direction(options("auroc_a/b", True), classification(per_label=True), None)
    with pytest.raises(UserError, match="keep_best_checkpoints .*'auroc_a/b'"):
        choose_direction(options("auroc_a/b", True, keep=2), classification(per_label=True), None)


nan = np.nan
UNDEFINED = [
    (classification(), "auroc", [[1, 0, 1], [1, 0, 1]]),
    (classification(), "auprc", [[1, 0, nan], [1, 0, 1]]),
    (classification(auc_average="micro"), "auroc", [[1, 1, 1], [1, 1, nan]]),
    (classification(per_label=True), "auroc_AF", [[0, 1, 1], [1, 1, 0]]),
    (classification(), "f1", [[0, 0, 0], [0, nan, 0]]),
    (classification(), "exact_match", [[1, nan, 0], [nan, 1, 1]]),
    (classification(), "loss", [[nan, nan, nan]]),
    (regression(), "mae", [[nan, nan, nan]]),
    (regression(), "loss", [[nan, nan, nan]]),
    (regression(), "r2", [[60, nan, 3], [60, 2, 3]]),
    (regression(), "pearson_r", [[60, 1, 3]]),
    (regression(per_label=True), "r2_SB", [[60, 1, 3], [60, 2, 4]]),
    (regression(per_label=True), "mae_AF", [[60, nan, 3], [60, nan, 4]]),
]
DEFINED = [
    (classification(), "auroc", [[1, 0, 1], [1, 0, 0]]),
    (classification(per_label=True), "auroc_SB", [[0, 1, 1], [1, 1, 0]]),
    (classification(), "loss", [[nan, nan, 1]]),
    (classification(), "accuracy", [[nan, nan, 1]]),
    (classification(), "f1", [[nan, nan, 1]]),
    (classification(), "exact_match", [[1, 0, 0]]),
    (regression(), "mae", [[nan, 3, nan]]),
    (regression(), "pearson_r", [[60, 1, 3], [60, 2, 3]]),
    (regression(per_label=True), "r2_AF", [[60, 1, 3], [60, 2, 4]]),
]


@pytest.mark.parametrize("criterion, metric, targets", UNDEFINED)
def test_a_metric_without_a_value(criterion, metric, targets, tmp_path):
    with pytest.raises(UserError, match=f"valid.tsv: {metric}, which chooses the best checkpoint, is undefined"):
        check_defined(metric, criterion, np.array(targets, float), facts_of(criterion), tmp_path / "valid.tsv")


@pytest.mark.parametrize("criterion, metric, targets", DEFINED)
def test_a_metric_with_a_value(criterion, metric, targets, tmp_path):
    check_defined(metric, criterion, np.array(targets, float), facts_of(criterion), tmp_path / "valid.tsv")


def test_every_metric_has_a_value_where_all_is_known(tmp_path):
    targets = np.random.default_rng(0).integers(0, 2, (20, 3)).astype(float)
    for criterion in (
        classification(per_label=True, report_cinc_score=True, weights_file=weights_file(tmp_path)),
        regression(per_label=True),
    ):
        assert Better.HIGHER in criterion.logged(None).values()
        for metric in criterion.logged(None):
            check_defined(metric, criterion, targets, facts_of(criterion), tmp_path)
