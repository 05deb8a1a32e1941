"""Task `ecg_classification`: fine-tuning and validation on labelled ECGs, with the options of ECG-FM's task."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, cast

import numpy as np
import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.optim.composite import FairseqCompositeOptimizer
from omegaconf import II, open_dict

# importing registers them: fairseq's user-dir mechanism imports tasks and models, but not criterions
import fairseq_signals_ext.criterions.binary_cross_entropy_with_logits
import fairseq_signals_ext.criterions.softmax  # noqa: F401
from fairseq_signals_ext.checkpoints.reading import Checkpoint, with_own_architecture
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.criterions.classification import criterions_of
from fairseq_signals_ext.data.batch_order import exit_if_error
from fairseq_signals_ext.data.ecg_dataset import EcgDataset, LabelledEcgDataset
from fairseq_signals_ext.data.label_table import (
    LabelTable,
    check_classes,
    check_known,
    check_same_folder,
    one_class_labels,
    read_labels,
    read_weights,
)
from fairseq_signals_ext.data.model_labels import check_labels, labels_by_name
from fairseq_signals_ext.data.segments import SEGMENT_CHOICES, SegmentSettings
from fairseq_signals_ext.data.stores import ShardStore, Store
from fairseq_signals_ext.evaluation.kinds import CLASSIFICATION, kind_of
from fairseq_signals_ext.evaluation.predictions import AGGREGATIONS, Predictions, to_recordings
from fairseq_signals_ext.evaluation.thresholds import choose_thresholds
from fairseq_signals_ext.models.ecg_classifier import resolve_config, take_over_architecture
from fairseq_signals_ext.tasks._best_metric import check_defined
from fairseq_signals_ext.tasks._ensembles import PredictionCollector
from fairseq_signals_ext.tasks._freezing import check_can_freeze, expect_missing_gradients, step_without
from fairseq_signals_ext.tasks._loading import KnownInputs
from fairseq_signals_ext.tasks._options import EcgPretrainingConfig, all_options
from fairseq_signals_ext.tasks._starting import StartingPoint
from fairseq_signals_ext.tasks.ecg_pretraining import EcgPretrainingTask, register_ecg_task

logger = logging.getLogger(__name__)

_THRESHOLD_RULE = "f1"
# in the task's state; valid for one model, not after more training
_DECISIONS = ("thresholds", "threshold_rule", "calibration")


@dataclass
class EcgClassificationConfig(EcgPretrainingConfig):
    """Options of the task: as for pretraining on single segments, and labels."""

    label_file: Optional[str] = field(
        default=None,
        metadata={
            "help": "labels, a row for each recording's idx: the y.npy (or its folder) of the label command or ECG-FM; "
            "default: the label that a .mat file holds"
        },
    )
    segment: ChoiceEnum(SEGMENT_CHOICES) = field(  # type: ignore[valid-type]
        default="all",
        metadata={"help": "of a training recording: all segments, or random: one, drawn again in each epoch"},
    )
    aggregate: ChoiceEnum(AGGREGATIONS) = field(  # type: ignore[valid-type]
        default="mean",
        metadata={"help": "scores of a recording from those of its segments; ecg-fm: max for some labels, else mean"},
    )
    best_checkpoint_metric: str = II("checkpoint.best_checkpoint_metric")
    valid_subset: str = II("dataset.valid_subset")
    enable_padding: bool = field(
        default=True, metadata={"help": "keep recordings shorter than a segment, padded with zeros"}
    )
    enable_padding_leads: bool = field(
        default=True, metadata={"help": "give the model all 12 leads, zeros for those not loaded or absent"}
    )


@register_ecg_task("ecg_classification", dataclass=EcgClassificationConfig)
class EcgClassificationTask(EcgPretrainingTask):
    """Labels of recordings, each 1, 0 or unknown.

    Checkpoints contain, as the task's state, all that is needed to use the model without its data: label names, sample
    rate, leads, length of a segment, and the best thresholds on the first validation subset.
    """

    # a subclass for another kind of labels sets `kind`, and is registered by `register_ecg_task`
    cfg: EcgClassificationConfig
    kind = CLASSIFICATION.name

    def __init__(self, cfg: EcgClassificationConfig, **kwargs: Any):
        super().__init__(cfg, **kwargs)
        self._labels: Optional[LabelTable] = None
        self._num_labels = 0
        self._collector = PredictionCollector()
        self._reported = 0
        self._metrics: Tuple[int, Dict[str, float]] = (0, {})
        self._validated = ""

    def _settings(self) -> SegmentSettings:
        if self.cfg.pairs not in (None, "none"):
            raise UserError(f"task.pairs={self.cfg.pairs}: pairs are for pretraining; see task.segment")
        return replace(super()._settings(), pairs="none", segment=str(self.cfg.segment))

    @property
    def labels(self) -> Optional[LabelTable]:
        """The table in `label_file`; None if the option is not set.

        Raises:
            UserError: it cannot be read.
        """
        if self._labels is None and self.cfg.label_file:
            table, wanted = read_labels(self.cfg.label_file), self.state.state_dict.get("label_names")
            self._labels = labels_by_name(table, wanted) if self._is_loaded and wanted is not None else table
        return self._labels

    @property
    def label_names(self) -> Tuple[str, ...]:
        """Names of the model's labels, in order, from the checkpoint, else from the label file."""
        saved = self.state.state_dict.get("label_names")
        if saved is not None:
            return tuple(saved)
        return self.labels.names if self.labels else tuple(f"label_{number}" for number in range(self._num_labels))

    @property
    def label_codes(self) -> List[List[str]]:
        """Codes of each label, such as SNOMED's; empty if unknown."""
        return list(self.labels.codes) if self.labels else [[] for _ in self.label_names]

    def _make_model(self, cfg: Any, from_checkpoint: bool) -> Any:
        pretrained = None
        if from_checkpoint:
            with open_dict(cfg):
                cfg.update(with_own_architecture(cfg))
        else:
            pretrained = self._complete(cfg)
        self._num_labels = int(cfg.num_labels)
        if not from_checkpoint and cfg.get("freeze_finetune_updates"):
            expect_missing_gradients(all_options(self.cfg))
        if not from_checkpoint and self.labels is not None:
            self._check_labels(self.labels)
            self.state.merge_state_dict({"label_names": list(self.labels.names)})
        model = super()._make_model(cfg, from_checkpoint)
        if pretrained is not None:
            self._known_inputs = KnownInputs.by(pretrained)
            model.load_pretrained(pretrained)
        return model

    def _complete(self, cfg: Any) -> Optional[Checkpoint]:
        """Complete the config of a model to train, and take over the state of the task in its checkpoint.

        Return the file to load the encoder from; None if fairseq's trainer loads a whole model.
        """
        start, pretrained = self.run.start, None
        if start is None:
            pretrained = resolve_config(cfg)
        else:
            take_over_architecture(cfg, start.checkpoint.model_config)
            self._take_state(start)
        if cfg.get("num_labels") is None:
            if self.labels is None:
                raise UserError("set task.label_file, or model.num_labels if labels are in the .mat files")
            with open_dict(cfg):
                cfg.num_labels = len(self.labels.names)
        return pretrained

    def _take_state(self, start: StartingPoint) -> None:
        """Take over the state of another model of the same task; `_DECISIONS` only if its run continues."""
        if start.checkpoint.task_config.get("_name") != self.cfg._name:
            return
        state = dict(start.checkpoint.task_state)
        if not start.continues:
            state = {name: value for name, value in state.items() if name not in _DECISIONS}
        self.state.merge_state_dict(state)

    @exits_on_user_error
    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the criterion; weights of labels in a file are read into its config, which checkpoints contain."""
        with open_dict(cfg):
            for option in ("pos_weight", "weight"):
                if cfg.get(option) is not None:
                    cfg[option] = read_weights(cfg[option], self._num_labels, option)
            if self._is_loaded and cfg.get("report_cinc_score") and not Path(str(cfg.get("weights_file"))).is_file():
                logger.warning(f"{cfg.get('weights_file')}: no such file, so there will be no CinC score")
                cfg.report_cinc_score = False
        return super().build_criterion(cfg, from_checkpoint)

    def _check_criterion(self, criterion: Any) -> None:
        if getattr(criterion, "kind", None) != self.kind:
            name = self.cfg.criterion_name
            usable = " or ".join(criterions_of(self.kind))
            raise UserError(f"criterion {name} does not fit task {self.cfg._name}; use {usable}")
        if self._has_classes and not self._is_loaded:
            self.state.merge_state_dict({"activation": criterion.activation})

    @property
    def _has_classes(self) -> bool:
        """Whether labels are classes, not numbers."""
        return kind_of(self.kind).has_classes

    @property
    def _is_exclusive(self) -> bool:
        """Whether labels are mutually exclusive classes."""
        return self._has_classes and self.state.state_dict.get("activation") == "softmax"

    def _check_labels(self, table: LabelTable) -> None:
        check_labels(table, self._num_labels, self.state.state_dict.get("label_names"), self._is_loaded)

    def _dataset(self, store: Store, path: Path, training: bool) -> EcgDataset:
        if self.labels is not None:
            self._check_labels(self.labels)
            if isinstance(store, ShardStore):
                check_same_folder(self.labels, store.manifest.shards[0])
        elif store.idx is not None:
            hint = "set task.label_file (fairseq-validate: --label-file) to what fairseq-signals-ext label leaves"
            raise UserError(f"{path}: no labels for these recordings; {hint}")
        dataset = LabelledEcgDataset(
            store,
            self._settings(),
            name=str(path),
            training=training,
            seed=self.cfg.seed,
            masks=self.masks if training else None,
            labels=self.labels,
            num_labels=self._num_labels,
            classes=self._has_classes,
            exclusive=self._is_exclusive,
        )
        self._look_at_labels(dataset, path, training)
        return dataset

    def opened(self, paths: Sequence[Path], training: bool) -> EcgDataset:
        """As for pretraining; without a model the labels are from the label file."""
        if self._model is None and self.labels is not None:
            self._num_labels = len(self.labels.names)
        return super().opened(paths, training)

    def _look_at_labels(self, dataset: LabelledEcgDataset, path: Path, training: bool) -> None:
        """Check the labels of a subset before use, and warn if some have only one class."""
        if dataset.store.idx is None or self.labels is None:
            return  # labels of .mat files are checked when these are read
        values = self._known_labels(dataset, path, training)
        if not self._has_classes:
            return
        check_classes(self.labels, values, dataset.store.idx, self._is_exclusive)
        undefined = one_class_labels(self.labels, values)
        if undefined:
            logger.warning(
                f"{path}: {len(undefined)} of {len(self.label_names)} labels have one class only here, their AUROC and "
                f"AUPRC are undefined and left out of means: {', '.join(undefined)}"
            )

    def _known_labels(self, dataset: LabelledEcgDataset, path: Path, training: bool) -> np.ndarray:
        """Return the labels of all recordings of a subset; for training each must be known for some recordings."""
        values = dataset.known()
        labelled = int((~np.isnan(values)).any(axis=1).sum())
        logger.info(f"{path}: {labelled} of {len(values)} recordings have a known label")
        if training:
            check_known(self.label_names, values, str(path))
        return values

    @property
    def _first_valid_subset(self) -> str:
        return str(self.cfg.valid_subset).split(",")[0]

    def _look_at_validation(self, dataset: EcgDataset, path: Path) -> None:
        targets = cast(LabelledEcgDataset, dataset).known()[dataset.kept]
        self.run.validates(dataset, targets.tobytes() + repr(self.label_names).encode())
        check_defined(self.cfg.best_checkpoint_metric, self._criterion, targets, self._facts(), path)

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
            SystemExit: `layer_decay` is set, with an optimizer that would ignore it.
        """
        for name in _DECISIONS:  # outdated after this update
            self.state.state_dict.pop(name, None)
        # with fp16, bf16 and amp fairseq wraps the optimizer
        inner = getattr(optimizer, "fp32_optimizer", getattr(optimizer, "wrapped_optimizer", optimizer))
        if self._model.cfg.layer_decay != 1 and not isinstance(inner, FairseqCompositeOptimizer):
            hint = "use optimizer composite, as in $(fairseq-signals-ext configs)/fine_tuning/mode/layer_decay.yaml"
            raise SystemExit(f"error: model.layer_decay={self._model.cfg.layer_decay:g} has no effect here; {hint}")
        exits_on_user_error(check_can_freeze)(model, optimizer)
        return super().train_step(sample, model, criterion, optimizer, update_num, *args, **kwargs)

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """As fairseq's; an encoder that does not learn at this update is not changed."""
        if self._model.encoder_learns:
            super().optimizer_step(optimizer, model, update_num)
        else:
            step_without(optimizer, self._model.encoder.parameters())

    def get_batch_iterator(self, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's, which calls it before it validates a subset: start to collect predictions."""
        self._collector, self._reported, self._metrics = PredictionCollector(), 0, (0, {})
        dataset = kwargs.get("dataset", args[0] if args else None)
        self._validated = next((name for name, known in self.datasets.items() if known is dataset), "")
        return super().get_batch_iterator(*args, **kwargs)

    def valid_step(self, sample: Dict[str, Any], model: Any, criterion: Any) -> Any:
        """As fairseq's; collect the scores."""
        exit_if_error(sample)
        loss, sample_size, log = super().valid_step(sample, model, criterion)
        self._collector.add(sample, log.pop("scores"))
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """As fairseq's; for validation sets also metrics that need all predictions at once."""
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            return
        # fairseq reduces after each batch or once at the end: the sum shows when all batches are included
        metrics.log_scalar("_batches", self._collector.batches - self._reported)
        self._reported = self._collector.batches
        for name in criterion.metric_names():
            metrics.log_derived(name, lambda meters, name=name: self._metric(name, meters, criterion))

    @exits_on_user_error
    def _metric(self, name: str, meters: Any, criterion: Any) -> Any:
        batches = self._collector.batches
        if meters["_batches"].sum != batches:
            return float("nan")
        if self._metrics[0] != batches:
            predictions = self.collected()
            self._metrics = batches, criterion.validation_metrics(predictions)
            decides = self._has_classes and not self._is_exclusive
            if decides and not self._is_loaded and self._validated == self._first_valid_subset:
                self._learn_thresholds(predictions)
        value = self._metrics[1][name]
        # fairseq-validate prints six digits of a number, but all of a tensor; loggers in training need numbers
        return torch.tensor(value, dtype=torch.float64) if self._is_loaded else value

    def _learn_thresholds(self, predictions: Predictions) -> None:
        """Store the thresholds with the best F1 of recordings, for the next checkpoint."""
        thresholds, _ = choose_thresholds(to_recordings(predictions), _THRESHOLD_RULE)
        rule = f"{_THRESHOLD_RULE} on {self._validated}"
        self.state.merge_state_dict({"thresholds": thresholds.tolist(), "threshold_rule": rule})

    def collected(self) -> Predictions:
        """Return predictions for the segments validated since the last batch iterator was made."""
        return self._collector.gather(**self._facts())

    def _facts(self) -> Dict[str, Any]:
        """Return the arguments of `Predictions` that do not depend on a batch."""
        label_file = str(self.labels.path) if self.labels else None
        facts = {"kind": self.kind, "aggregation": str(self.cfg.aggregate), "label_file": label_file}
        return {**facts, "label_names": self.label_names, "exclusive": self._is_exclusive}
