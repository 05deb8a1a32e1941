"""Task `ecg_pretraining`: self-supervised pretraining on ECGs, with the options of ECG-FM's task."""

import contextlib
import logging
import math
import multiprocessing
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence, Type, TypeVar

import numpy as np
from fairseq.data import data_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import OmegaConf

# importing registers them: fairseq's user-dir mechanism imports tasks and models, but not criterions
import fairseq_signals_ext.criterions.data2vec_with_cmsc
import fairseq_signals_ext.criterions.future_contrast
import fairseq_signals_ext.criterions.latent_prediction
import fairseq_signals_ext.criterions.wav2vec2_with_cmsc
import fairseq_signals_ext.optimizers.fused_adam  # noqa: F401
from fairseq_signals_ext.checkpoints.allowed import allow, check_names
from fairseq_signals_ext.checkpoints.architecture import encoder_config
from fairseq_signals_ext.checkpoints.describing import KINDS_BY_TASK
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.criterions.objective import Objective, pairs_needed
from fairseq_signals_ext.data.batch_order import ErrorsAsSamples, exit_if_error
from fairseq_signals_ext.data.collating import Masks, first_segments
from fairseq_signals_ext.data.ecg_dataset import EcgDataset
from fairseq_signals_ext.data.manifest import find_manifests, read_manifests
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.stores import Store, open_store
from fairseq_signals_ext.evaluation.kinds import PRETRAINING
from fairseq_signals_ext.evaluation.training_curve import log_page
from fairseq_signals_ext.models.encoder import Encoder
from fairseq_signals_ext.models.faster_parts import compile_parts, without_compiling
from fairseq_signals_ext.tasks._best_metric import choose_direction
from fairseq_signals_ext.tasks._ensembles import patch_ensemble_loading
from fairseq_signals_ext.tasks._freezing import check_optimizer_state
from fairseq_signals_ext.tasks._interrupting import end_in_one_line
from fairseq_signals_ext.tasks._known_warnings import hide_known_warnings
from fairseq_signals_ext.tasks._loading import (
    KnownInputs,
    check_same_inputs,
    in_one_line,
    inputs_of,
    patch_checkpoint_loading,
)
from fairseq_signals_ext.tasks._options import EcgPretrainingConfig, all_options, resolve_paths, segment_settings
from fairseq_signals_ext.tasks._parallel import is_sharded, send_gradients_in_bf16
from fairseq_signals_ext.tasks._position import keep_position
from fairseq_signals_ext.tasks._run_state import Run
from fairseq_signals_ext.tasks._saving import patch_checkpoint_saving
from fairseq_signals_ext.tasks._starting import (
    RESETS,
    StartingPoint,
    check_average,
    check_criterion,
    check_fits,
    end_if_finished,
    starting_point,
)
from fairseq_signals_ext.tasks._wrong_options import name_wrong_options

logger = logging.getLogger(__name__)

_Task = TypeVar("_Task", bound=Type[Any])

patch_checkpoint_loading()
patch_checkpoint_saving()
patch_ensemble_loading()
name_wrong_options()


def register_ecg_task(name: str, dataclass: Type[FairseqDataclass]) -> Callable[[_Task], _Task]:
    """Register a task on ECGs with fairseq's `register_task`, and allow checkpoints to name it.

    Args:
        name: for `task._name`.
        dataclass: its options.
    """

    def register(task: _Task) -> _Task:
        register_task(name, dataclass=dataclass)(task)
        allow("task", name)
        KINDS_BY_TASK[name] = task.kind
        return task

    return register


@register_ecg_task("ecg_pretraining", dataclass=EcgPretrainingConfig)
class EcgPretrainingTask(FairseqTask):
    """Pretraining on segments, or on pairs of adjacent segments for CMSC."""

    cfg: EcgPretrainingConfig
    kind = PRETRAINING.name

    def __init__(self, cfg: EcgPretrainingConfig, **kwargs: Any):
        super().__init__(cfg, **kwargs)
        self.masks: Optional[Masks] = None
        self.keep_original = False
        self._model: Any = None
        self._criterion: Any = None
        self.run = Run()
        self._known_inputs: Optional[KnownInputs] = None  # of the model to start from, else of the first data set
        self._is_loaded = False  # with the model of a checkpoint, for inference
        self._settings()

    @classmethod
    @exits_on_user_error
    def setup_task(cls, cfg: EcgPretrainingConfig, **kwargs: Any) -> "EcgPretrainingTask":
        """Build the task for a config; end with one line if an option is wrong."""
        if OmegaConf.is_missing(cfg, "data"):
            raise UserError("task.data is not given: set it to a folder with manifests")
        return cls(cfg, **kwargs)

    def _settings(self) -> SegmentSettings:
        pairs = self.cfg.pairs or pairs_needed(str(self.cfg.criterion_name))
        if self._is_loaded:
            saved = self.state.state_dict
            return segment_settings(self.cfg, pairs, saved.get("sample_rate"), saved.get("standardization"))
        known = self._known_inputs.inputs.standardization if self._known_inputs else None
        return segment_settings(self.cfg, pairs, saved_way=known)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; the task's collater uses its masking options."""
        self._is_loaded = from_checkpoint
        # fairseq reads the names of this method's arguments; a decorator would hide them
        return self._build_model(cfg, from_checkpoint)

    @exits_on_user_error
    def _build_model(self, cfg: Any, from_checkpoint: bool) -> Any:
        if not from_checkpoint:
            resolve_paths(self.cfg, cfg)
            self.run.begin(all_options(self.cfg), starting_point(self.cfg))
            end_if_finished(self.cfg, self.run.start)
            end_in_one_line(self.run.options)
            hide_known_warnings(self.run.options)
        return self._make_model(cfg, from_checkpoint)

    def _make_model(self, cfg: Any, from_checkpoint: bool) -> Any:
        if not (from_checkpoint or Path(self.cfg.data).is_dir()):
            raise UserError(f"{self.cfg.data}: no such folder; give task.data a folder with manifests")
        if from_checkpoint:
            _check_name("model", cfg)
        check_average(self.run.options, self.run.start)
        model = super().build_model(cfg, from_checkpoint)
        leads = 12 if self.cfg.enable_padding_leads else len(self._settings().leads)
        taken = encoder_config(model.cfg).get("in_d", leads)
        if taken != leads:
            raise UserError(
                f"model.in_d={taken}, but the task gives {leads} leads; set model.in_d={leads}, "
                f"or task.leads_to_load and task.enable_padding_leads to match"
            )
        if self.run.start is not None:
            self._known_inputs = KnownInputs.by(self.run.start.checkpoint)
            self._start_from(self.run.start, model)
        self.masks = model.mask_settings()
        self._model = model
        return model

    def _start_from(self, start: StartingPoint, model: Any) -> None:
        """Check that the model can load the checkpoint that fairseq's trainer will load."""
        if not start.continues and hasattr(model, "take_encoders"):
            model.take_encoders()
        check_fits(start.checkpoint, model)

    @exits_on_user_error
    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the criterion, with the inputs that it requires; see `criterions.objective`."""
        if self._is_loaded:
            _check_name("criterion", cfg)
        with in_one_line("the checkpoint's criterion") if self._is_loaded else contextlib.nullcontext():
            self._criterion = criterion = super().build_criterion(cfg)
        self._check_criterion(criterion)
        options = self.run.options
        if options is not None and not options.dataset.disable_validation:
            choose_direction(options, criterion, self._model)
        if isinstance(criterion, Objective):
            self._meet_needs(criterion)
        start = self.run.start
        if start is not None and start.continues and not self.cfg.reset_optimizer:
            check_criterion(start.checkpoint, criterion)
            check_optimizer_state(start.checkpoint, self._model, RESETS)
        self.run.is_built()
        return criterion

    def _check_criterion(self, criterion: Any) -> None:
        name, pairs = self.cfg.criterion_name, self._settings().pairs
        if getattr(criterion, "needs_pairs", False) and pairs not in ("fixed", "random"):
            raise UserError(f"{name} needs pairs of segments: set task.pairs to fixed or random")
        if getattr(criterion, "needs_recordings", False) and pairs != "recording":
            raise UserError(f"{name} needs all segments of a recording: set task.pairs=recording")

    def _meet_needs(self, objective: Objective) -> None:
        """Set up what the objective needs of batches and of the model, and log its page of curves."""
        if objective.needs_head and is_sharded(self._model):
            name = self.cfg.criterion_name
            raise UserError(f"{name} adds a layer to the model, not possible with ddp_backend=fully_sharded")
        self.keep_original = objective.needs_signal
        objective.add_head(self._model)
        if self.run.options is not None:
            log_page(objective.curve)

    @exits_on_user_error
    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Open `SPLIT.tsv` (or its pieces) of `task.data`; only the training subset is augmented.

        The subsets of a loaded checkpoint are never augmented.
        """
        training = split == self.cfg.train_subset and not self._is_loaded
        if combine and not training:
            raise UserError("dataset.combine_valid_subsets is not supported; name them all in dataset.valid_subset")
        paths = find_manifests(self.cfg.data, split)
        dataset = self.opened(paths, training)
        if not self._is_loaded:
            self._compare(dataset, paths[0])
        if training:
            self.state.merge_state_dict(inputs_of(dataset))
            self._shuffle_in_windows(dataset)
        elif self._chooses_best(split):
            self._look_at_validation(dataset, paths[0])
        self.datasets[split] = ErrorsAsSamples(dataset)

    def opened(self, paths: Sequence[Path], training: bool) -> EcgDataset:
        """Open the dataset of a subset.

        Args:
            paths: its manifest, or the pieces of its manifest.
            training: augment.

        Raises:
            UserError: a manifest cannot be used, or an option does not fit its recordings.
        """
        return self._dataset(open_store(read_manifests(paths), self.cfg.checksum), paths[0], training)

    def _compare(self, dataset: EcgDataset, path: Path) -> None:
        """Compare the inputs of a data set with the model's, or with the data set that was compared before."""
        here = KnownInputs.of(path, inputs_of(dataset))
        check_same_inputs(self._known_inputs, here, self.cfg.allow_mismatch)
        self._known_inputs = here  # so that a difference is reported once

    def _chooses_best(self, split: str) -> bool:
        """Whether a metric on this subset chooses the best checkpoint."""
        options = self.run.options
        return options is not None and split == str(options.dataset.valid_subset).split(",")[0]

    def _look_at_validation(self, dataset: EcgDataset, path: Path) -> None:
        """Check before the training that the subset can choose the best checkpoint."""
        self.run.validates(dataset)

    def _shuffle_in_windows(self, dataset: EcgDataset) -> None:
        if self.cfg.shuffle_window_gb is None:
            return
        if not self.cfg.rebuild_batches:
            raise UserError("task.shuffle_window_gb is for new batches in each epoch: set task.rebuild_batches=true")
        dataset.shuffle_in_windows(self.cfg.shuffle_window_gb)

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's, but with windows the batches keep the dataset's order, which is already random."""
        if "fork" in multiprocessing.get_all_start_methods() and dataset.dataset.training:
            dataset.dataset.share_batches(kwargs.get("num_workers", 0))
        items = kwargs.get("max_sentences")
        if dataset.dataset.training and items and isinstance(self._criterion, Objective):
            exits_on_user_error(self._criterion.check_items)(items)
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if self.cfg.shuffle_window_gb is not None:
            iterator.disable_shuffling = True
            iterator.shuffle = False
        run = self.run
        if dataset.dataset.training and run.options is not None and run.start is not None and run.start.continues:
            keep_position(iterator, dataset.dataset, run.start, run.options)
        return iterator

    def _dataset(self, store: Store, path: Path, training: bool) -> EcgDataset:
        return EcgDataset(
            store,
            self._settings(),
            name=str(path),
            training=training,
            seed=self.cfg.seed,
            masks=self.masks,
            keep_original=self.keep_original,
        )

    @exits_on_user_error
    def train_step(
        self,
        sample: Dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As fairseq's; numpy's generator, which drops layers, is seeded here, so that training is reproducible."""
        exit_if_error(sample)
        if self.cfg.bf16_gradients:
            send_gradients_in_bf16(model)
        if ignore_grad and "most_segments" in sample:
            sample = self._fit_dummy(sample)
        with data_utils.numpy_seed(self.cfg.seed, update_num):
            return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad, **kwargs)

    @exits_on_user_error
    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """As fairseq's; an encoder in pretraining is notified before and after."""
        if not isinstance(self._model, Encoder):
            super().optimizer_step(optimizer, model, update_num)
            return
        updates = int(self.run.options.optimization.max_update) if self.run.options is not None else 0
        self._model.before_update(optimizer, update_num, updates)
        super().optimizer_step(optimizer, model, update_num)
        self._model.after_update(update_num + 1, updates)

    def _fit_dummy(self, sample: Dict[str, Any]) -> Dict[str, Any]:
        """Return a dummy batch for a rank that has no batch left; `sample` may be for validation, of another size."""
        dataset = self.datasets[self.cfg.train_subset].dataset
        most = dataset.largest_batch * dataset.segments
        return {**first_segments(sample, most), "most_segments": most, "is_dummy": True}

    @exits_on_user_error
    def valid_step(self, sample: Dict[str, Any], model: Any, criterion: Any) -> Any:
        """As fairseq's."""
        exit_if_error(sample)
        with without_compiling(model):
            return super().valid_step(sample, model, criterion)

    def post_validate(self, model: Any, stats: Dict[str, Any], meters: Any) -> None:
        """Replace a metric of NaN by None: fairseq would never find a value better than NaN."""
        options = self.run.options
        metric = options.checkpoint.best_checkpoint_metric if options is not None else ""
        if isinstance(stats.get(metric), float) and math.isnan(stats[metric]):
            logger.warning(f"{metric} has no value on this validation set: no checkpoint is chosen by it this time")
            stats[metric] = None

    @exits_on_user_error
    def begin_epoch(self, epoch: int, model: Any) -> None:
        """Compile the model if so configured; only trainings call this."""
        if not getattr(model.cfg, "compile", False):
            return
        if is_sharded(model):
            raise UserError("model.compile is not possible with ddp_backend=fully_sharded; set model.compile=false")
        compile_parts(model)

    def max_positions(self) -> int:
        """No limit: segments are cut to one length."""
        return int(np.iinfo(np.int32).max)

    @property
    def source_dictionary(self) -> None:
        """None: there is no text."""
        return None

    @property
    def target_dictionary(self) -> None:
        """None: there is no text."""
        return None


def _check_name(section: str, cfg: Any) -> None:
    """Check that a checkpoint names only our own parts for fairseq to build."""
    try:
        check_names({section: {"_name": cfg.get("_name")}})
    except ValueError as error:
        raise UserError(f"the checkpoint: {error}") from None
