"""Options of the tasks, and of the command line: its folder and its overrides.

hydra starts a training in its own folder, but a path on the command line is relative to another one.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional, Tuple

from fairseq.dataclass import FairseqDataclass
from hydra.core.hydra_config import HydraConfig
from omegaconf import II, MISSING, DictConfig, OmegaConf, open_dict

from fairseq_signals_ext.checkpoints.config_differences import PATHS
from fairseq_signals_ext.checkpoints.describing import standardization_given
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.leads import parse_leads
from fairseq_signals_ext.data.augmentations import AugmentationSettings
from fairseq_signals_ext.data.segments import SegmentSettings
from fairseq_signals_ext.data.standardising import STANDARDIZATIONS

# hydra's files in the folder of a training
_HYDRA, _OVERRIDES = Path(".hydra/hydra.yaml"), Path(".hydra/overrides.yaml")
LAST = "checkpoint_last.pt"  # fairseq's default, not a path: the file is in `checkpoint.save_dir`


@dataclass
class EcgPretrainingConfig(FairseqDataclass):
    """Options of the task."""

    data: str = field(default=MISSING, metadata={"help": "folder with the manifests, SPLIT.tsv"})
    leads_to_load: Any = field(
        default=None, metadata={"help": "leads to load, such as 'I,II,V1' or [0, 1, 6]; default all twelve"}
    )
    sample_rate: Optional[float] = field(
        default=None, metadata={"help": "sample rate in Hz that recordings must have; default: that of the first"}
    )
    segment_seconds: float = field(default=5.0, metadata={"help": "length of a segment in s"})
    pairs: Optional[str] = field(
        default=None,
        metadata={
            "help": "none: single segments; fixed: segments 0-1, 2-3, ... of a recording; "
            "random: two adjacent windows, drawn again in each epoch; recording: all segments of one; "
            "default: what the criterion needs"
        },
    )
    criterion_name: str = II("criterion._name")
    normalize: bool = field(
        default=False,
        metadata={"help": "normalise each segment as a whole, instead of each lead over its recording"},
    )
    standardize: Optional[str] = field(
        default=None,
        metadata={
            "help": "lead: each lead by its mean and deviation over the recording; recording: all leads by one mean "
            "and deviation over the recording; fixed: mV over a constant per lead, clipped to +-5; segment: as "
            "normalize; default: as the model that the training starts from, else lead"
        },
    )
    enable_padding: bool = field(
        default=False, metadata={"help": "keep recordings shorter than a segment, padded with zeros"}
    )
    enable_padding_leads: bool = field(
        default=False, metadata={"help": "give the model all 12 leads, zeros for those not loaded or absent"}
    )
    max_sample_size: Optional[int] = field(default=None, metadata={"help": "use no more samples of a segment"})
    min_sample_size: Optional[int] = field(default=None, metadata={"help": "leave out recordings with fewer samples"})
    checksum: str = field(
        default="once",
        metadata={"help": "compare checksums of a recording and of its shard's index when read: once, always or never"},
    )
    allow_mismatch: bool = field(
        default=False,
        metadata={
            "help": "train on data of another sample rate, order of leads or standardisation than the pretrained "
            "model's, whose features then mean something else"
        },
    )
    rebuild_batches: bool = field(default=True, metadata={"help": "compose new batches in each epoch"})
    bf16_gradients: bool = field(
        default=False,
        metadata={"help": "send gradients between GPUs in bf16, half the bytes of fp32; with ddp_backend=pytorch_ddp"},
    )
    shuffle_window_gb: Optional[float] = field(
        default=None,
        metadata={
            "help": "for data larger than memory: shuffle so many GB of the shards together, one such window after the "
            "other, each a random choice of blocks of all shards, read ahead in large pieces; at most half of the "
            "memory that is free for the page cache; default: shuffle all items together"
        },
    )
    seed: int = II("common.seed")
    save_dir: str = II("checkpoint.save_dir")
    restore_file: str = II("checkpoint.restore_file")
    finetune_from_model: Optional[str] = II("checkpoint.finetune_from_model")
    continue_once: Optional[str] = II("checkpoint.continue_once")
    reset_optimizer: bool = II("checkpoint.reset_optimizer")
    train_subset: str = II("dataset.train_subset")

    perturbation_mode: Optional[List[str]] = field(
        default=None,
        metadata={
            "help": "augmentations in order: random_leads_masking, powerline_noise, emg_noise, baseline_shift, "
            "baseline_wander"
        },
    )
    p: List[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "probability of each augmentation, or one for all"}
    )
    max_amplitude: float = field(default=0.1, metadata={"help": "largest amplitude of noise, shift and wander"})
    min_amplitude: float = field(default=0.0, metadata={"help": "smallest amplitude of noise, shift and wander"})
    dependency: bool = field(
        default=True, metadata={"help": "let noise of III, aVR, aVL and aVF follow from that of I and II"}
    )
    shift_ratio: float = field(default=0.2, metadata={"help": "baseline_shift: shifted part of a segment"})
    num_segment: int = field(default=1, metadata={"help": "baseline_shift: number of shifted stretches"})
    max_freq: float = field(default=0.2, metadata={"help": "baseline_wander: highest frequency in Hz"})
    min_freq: float = field(default=0.01, metadata={"help": "baseline_wander: lowest frequency in Hz"})
    k: int = field(default=3, metadata={"help": "baseline_wander: number of cosines"})
    mask_leads_selection: str = field(default="random", metadata={"help": "random_leads_masking: random, conditional"})
    mask_leads_prob: float = field(default=0.5, metadata={"help": "random: probability that a lead is masked"})
    mask_leads_condition: Tuple[int, int] = field(
        default=(4, 5), metadata={"help": "conditional: how many limb and chest leads are masked"}
    )


def segment_settings(
    cfg: Any, pairs: str, saved_rate: Optional[float] = None, saved_way: Optional[str] = None
) -> SegmentSettings:
    """Return the settings for segments of recordings.

    Args:
        cfg: an `EcgPretrainingConfig`.
        pairs: see `SegmentSettings`.
        saved_rate: Hz, of a loaded model; None if unknown or no model is loaded.
        saved_way: standardisation of the model that is loaded or that a training starts from; None if there is none.

    Raises:
        UserError: a lead, or the standardisation, is unknown.
    """
    return SegmentSettings(
        sample_rate=cfg.sample_rate or saved_rate,
        segment_seconds=cfg.segment_seconds,
        max_sample_size=cfg.max_sample_size,
        min_sample_size=cfg.min_sample_size,
        leads=tuple(parse_leads(cfg.leads_to_load)),
        pad=cfg.enable_padding,
        pad_leads=cfg.enable_padding_leads,
        standardization=_standardization(cfg) or saved_way or "lead",
        pairs=pairs,
        augmentations=AugmentationSettings(
            perturbation_mode=tuple(cfg.perturbation_mode or ()),
            p=tuple(cfg.p),
            max_amplitude=cfg.max_amplitude,
            min_amplitude=cfg.min_amplitude,
            dependency=cfg.dependency,
            shift_ratio=cfg.shift_ratio,
            num_segment=cfg.num_segment,
            max_freq=cfg.max_freq,
            min_freq=cfg.min_freq,
            k=cfg.k,
            mask_leads_selection=cfg.mask_leads_selection,
            mask_leads_prob=cfg.mask_leads_prob,
            mask_leads_condition=(*cfg.mask_leads_condition,),
        ),
    )


def _standardization(cfg: Any) -> Optional[str]:
    """Return the standardisation in the options; None if not set."""
    way = standardization_given({"standardize": cfg.standardize, "normalize": cfg.normalize})
    if way is not None and way not in STANDARDIZATIONS:
        raise UserError(f"task.standardize={way}: use one of {', '.join(STANDARDIZATIONS)}")
    if cfg.normalize and way != "segment":
        raise UserError(f"task.normalize=true and task.standardize={way} are two ways to standardise; leave one out")
    return way


def all_options(task_cfg: Any) -> Optional[DictConfig]:
    """Return the config of all sections that contains a task's config; None if there is none."""
    root = task_cfg._get_root() if isinstance(task_cfg, DictConfig) else None
    return root if isinstance(root, DictConfig) and "checkpoint" in root else None


def resolve_paths(task_cfg: Any, model_cfg: Any) -> None:
    """Make input paths absolute, in place: relative to the folder of the command, else to hydra's folder.

    Args:
        task_cfg: of the task, a merged copy of its section.
        model_cfg: of the model.

    Raises:
        UserError: a file is in neither folder.
    """
    options = all_options(task_cfg)
    typed_in = _folder_of_command(options)
    if options is None or typed_in is None or typed_in == Path.cwd():
        return
    # fairseq's options are copied to the task's
    others = {"task": [task_cfg], "checkpoint": [task_cfg, options.task], "model": [model_cfg]}
    for path in PATHS:
        name, option = path.split(".")
        if name != "common":  # the user-dir, which fairseq has found
            for section in (options[name], *others.get(name, [])):
                _resolve(section, option, path, typed_in)


def _resolve(section: Any, option: str, name: str, typed_in: Path) -> None:
    if option not in section or OmegaConf.is_missing(section, option):
        return
    value = section[option]
    if not isinstance(value, str) or not value or value == LAST or Path(value).is_absolute():
        return
    found = [folder / value for folder in (typed_in, Path.cwd()) if (folder / value).exists()]
    if not found:
        raise UserError(
            f"{name}={value}: no such file or folder in {typed_in}, where the command was typed, nor in {Path.cwd()}; "
            f"correct {name}"
        )
    with open_dict(section):
        section[option] = str(found[0])


def _folder_of_command(options: Optional[DictConfig]) -> Optional[Path]:
    """Return the folder in which the command was typed; None without hydra, which changes the folder."""
    if HydraConfig.initialized():
        return Path(HydraConfig.get().runtime.cwd)
    if _is_started_by_hydra(options) and _HYDRA.is_file():
        return Path(OmegaConf.load(_HYDRA).hydra.runtime.cwd)
    return None


def typed(options: Optional[DictConfig]) -> Optional[List[str]]:
    """Return the overrides of the command line, such as `common.seed=1`, without `+`; None without hydra."""
    overrides: Any = None
    if HydraConfig.initialized():
        overrides = HydraConfig.get().overrides.task
    elif _is_started_by_hydra(options) and _OVERRIDES.is_file():
        overrides = OmegaConf.load(_OVERRIDES)
    return None if overrides is None else [str(override).lstrip("+") for override in overrides]


def _is_started_by_hydra(options: Optional[DictConfig]) -> bool:
    """Whether this is one of the processes, one per GPU, that fairseq starts without hydra's state."""
    return options is not None and "job_logging_cfg" in options
