"""Task `ecg_classification`: fine-tuning and validation on labelled ECGs, with the options of ECG-FM's task."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import open_dict

# importing registers them: fairseq's user-dir mechanism imports tasks and models by itself, criterions not
import fairseq_signals_ext.criterions.binary_cross_entropy_with_logits  # noqa: F401
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.label_table import (
    LabelTable,
    check_classes,
    check_known,
    check_same_folder,
    one_class_labels,
    read_labels,
    read_pos_weight,
)
from fairseq_signals_ext.data.labelled_dataset import LabelledEcgDataset
from fairseq_signals_ext.data.segments import SEGMENT_CHOICES, SegmentSettings
from fairseq_signals_ext.data.stores import ShardStore, Store
from fairseq_signals_ext.errors import UserError, exits_on_user_error
from fairseq_signals_ext.evaluation.aggregation import AGGREGATIONS
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.models.ecg_classifier import resolve_config
from fairseq_signals_ext.tasks._errors_as_samples import exit_if_error
from fairseq_signals_ext.tasks._predictions import PredictionCollector
from fairseq_signals_ext.tasks.ecg_pretraining import EcgPretrainingConfig, EcgPretrainingTask

logger = logging.getLogger(__name__)


@dataclass
class EcgClassificationConfig(EcgPretrainingConfig):
    """Options of the task: those of pretraining on single segments, and labels."""

    label_file: Optional[str] = field(
        default=None,
        metadata={
            "help": "labels, a row for each recording's idx: the y.npy (or its folder) of label.py or of ECG-FM; "
            "default: the label that a .mat file holds"
        },
    )
    segment: ChoiceEnum(SEGMENT_CHOICES) = field(  # type: ignore[valid-type]
        default="all",
        metadata={"help": "of a training recording: all segments, or random: one, drawn anew each epoch"},
    )
    aggregate: ChoiceEnum(AGGREGATIONS) = field(  # type: ignore[valid-type]
        default="mean",
        metadata={"help": "scores of a recording from those of its segments; ecg-fm: max for some labels, else mean"},
    )
    enable_padding: bool = field(
        default=True, metadata={"help": "keep recordings shorter than a segment, padded with zeros"}
    )
    enable_padding_leads: bool = field(
        default=True, metadata={"help": "give the model all 12 leads, zeros for those not loaded or absent"}
    )


@register_task("ecg_classification", dataclass=EcgClassificationConfig)
class EcgClassificationTask(EcgPretrainingTask):
    """Labels of recordings, each 1, 0 or not known.

    The label names are saved in checkpoints, as the task's state.
    """

    cfg: EcgClassificationConfig
    kind = "classification"

    def __init__(self, cfg: EcgClassificationConfig, **kwargs: Any):
        super().__init__(cfg, **kwargs)
        self._labels: Optional[LabelTable] = None
        self._num_labels = 0
        self._collector = PredictionCollector()
        self._reported = 0
        self._metrics: Tuple[int, Dict[str, float]] = (0, {})

    def _settings(self) -> SegmentSettings:
        return replace(super()._settings(), pairs="none", segment=str(self.cfg.segment))

    @property
    def labels(self) -> Optional[LabelTable]:
        """The table in `label_file`; None if there is no such option.

        Raises:
            UserError: it cannot be read, or has other labels than the checkpoint.
        """
        if self._labels is None and self.cfg.label_file:
            self._labels = read_labels(self.cfg.label_file)
        return self._labels

    @property
    def label_names(self) -> Tuple[str, ...]:
        """Names of the model's labels, in order: the checkpoint's, else those of the label file."""
        saved = self.state.state_dict.get("label_names")
        if saved is not None:
            return tuple(saved)
        return self.labels.names if self.labels else tuple(f"label_{number}" for number in range(self._num_labels))

    @property
    def label_codes(self) -> List[List[str]]:
        """For each label the codes, such as SNOMED's, that it stands for; empty where they are not known."""
        return list(self.labels.codes) if self.labels else [[] for _ in self.label_names]

    @exits_on_user_error
    def _build_model(self, cfg: Any, from_checkpoint: bool) -> Any:
        if not from_checkpoint:
            resolve_config(cfg)
            if cfg.get("num_labels") is None:
                if self.labels is None:
                    raise UserError("set task.label_file, or model.num_labels if labels are in the .mat files")
                with open_dict(cfg):
                    cfg.num_labels = len(self.labels.names)
        self._num_labels = int(cfg.num_labels)
        if not from_checkpoint and self.labels is not None:
            self._check_labels(self.labels)
            self.state.merge_state_dict({"label_names": list(self.labels.names)})
        model = super()._build_model(cfg, from_checkpoint)
        if not from_checkpoint and cfg.get("model_path") and not cfg.get("no_pretrained_weights"):
            model.load_pretrained(Path(cfg.model_path))
        if not model.cfg.apply_mask:
            self.masks = None
        return model

    @exits_on_user_error
    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The criterion; weights of labels that are in a file are read into its config, which checkpoints keep."""
        for option in ("pos_weight", "weight"):
            if isinstance(cfg.get(option), str):
                with open_dict(cfg):
                    cfg[option] = read_pos_weight(Path(cfg[option]))
            weights = cfg.get(option)
            if weights is not None and len(weights) != self._num_labels:
                raise UserError(
                    f"criterion.{option} has {len(weights)} numbers for {self._num_labels} labels; give one a label, "
                    f"such as the pos_weight.txt beside the label file"
                )
        return super().build_criterion(cfg, from_checkpoint)

    def _check_labels(self, table: LabelTable) -> None:
        """Raise a `UserError` unless the table has the model's labels."""
        if len(table.names) != self._num_labels:
            raise UserError(
                f"{table.path}: {len(table.names)} labels, but the model has num_labels={self._num_labels}; "
                f"leave model.num_labels out, or give the label file that the model was trained with"
            )
        saved = self.state.state_dict.get("label_names")
        for number, (name, theirs) in enumerate(zip(table.names, saved or ())):
            if name != theirs:
                raise UserError(
                    f"{table.path}: label {number} is {name!r}, but the checkpoint was trained with {theirs!r} there; "
                    f"give labels in the checkpoint's order: {', '.join(saved or ())}"
                )

    def _dataset(self, store: Store, split: str, path: Path) -> EcgDataset:
        training = "train" in split
        if self.labels is not None:
            self._check_labels(self.labels)
            self._look_at(self.labels, store, split, path, training)
        elif store.idx is not None:
            cure = "set task.label_file (fairseq-validate: --label-file) to what manifests/label.py leaves"
            raise UserError(f"{path}: no labels for these recordings; {cure}")
        return LabelledEcgDataset(
            store,
            self._settings(),
            name=str(path),
            training=training,
            seed=self.cfg.seed,
            masks=self.masks if training else None,
            labels=self.labels,
            num_labels=self._num_labels,
        )

    def _look_at(self, table: LabelTable, store: Store, split: str, path: Path, training: bool) -> None:
        """Check the labels of a split's recordings before anything trains on them, and say what lacks."""
        # which recordings .mat files hold is not known before they are read
        values = np.asarray(table.values, np.float64) if store.idx is None else table.rows(store.idx)
        if isinstance(store, ShardStore):
            check_same_folder(table, store.manifest.shards[0])
        if self.kind == "classification":
            check_classes(table, values, store.idx)
        if training:
            check_known(table, values, str(path))
            self._learn_scale(values)
        if self.kind == "classification" and store.idx is not None:
            undefined = one_class_labels(table, values)
            if undefined:
                logger.warning(
                    f"{path}: {len(undefined)} of {len(table.names)} labels have one class only here, their AUROC and "
                    f"AUPRC are undefined and left out of means: {', '.join(undefined)}"
                )

    def _learn_scale(self, values: np.ndarray) -> None:
        """Nothing to learn: classes have no scale."""

    def train_step(
        self,
        sample: Dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """As fairseq's.

        Raises:
            SystemExit: `layer_decay`, with an optimizer that would ignore it.
        """
        if self._model.cfg.layer_decay != 1 and len(list(optimizer.param_groups)) == 1:
            cure = "use optimizer composite, as in examples/ecg_fm/fine_tuning/layer_decay.yaml"
            raise SystemExit(f"error: model.layer_decay={self._model.cfg.layer_decay:g} has no effect here; {cure}")
        return super().train_step(sample, model, criterion, optimizer, update_num, *args, **kwargs)

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's; it asks for one before it validates a subset, whose predictions are then collected anew."""
        self._collector, self._reported, self._metrics = PredictionCollector(), 0, (0, {})
        return super().get_batch_iterator(*args, **kwargs)

    def valid_step(self, sample: Dict[str, Any], model: Any, criterion: Any) -> Any:
        """As fairseq's; keeps the scores."""
        exit_if_error(sample)
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        self._collector.add(sample, log.pop("scores"))
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """As fairseq's; of validation sets also the metrics that need all predictions at once."""
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            return
        # fairseq reduces after each batch or once at the end: the sum tells when all batches are in
        metrics.log_scalar("_batches", self._collector.batches - self._reported)
        self._reported = self._collector.batches
        for name in criterion.metric_names():
            metrics.log_derived(name, lambda meters, name=name: self._metric(name, meters, criterion))

    def _metric(self, name: str, meters: Any, criterion: Any) -> Any:
        batches = self._collector.batches
        if meters["_batches"].sum != batches:
            return float("nan")
        if self._metrics[0] != batches:
            self._metrics = batches, criterion.validation_metrics(self.collected())
        # fairseq prints six digits of a number, but all of a tensor
        return torch.tensor(self._metrics[1][name], dtype=torch.float64)

    def collected(self) -> Predictions:
        """Predictions of the segments that were validated since the last batch iterator was made."""
        return self._collector.gather(self.label_names, self.kind, str(self.cfg.aggregate))
