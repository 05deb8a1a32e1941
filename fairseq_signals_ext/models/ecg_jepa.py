"""A joint-embedding predictive architecture for ECGs (JEPA): it predicts a teacher's representation of hidden patches.

After Weimann and Conrad 2024 (arXiv 2410.13867): a student encodes the visible patches, and a predictor predicts the
hidden ones. The targets are outputs of the teacher, a moving average of the student. The teacher is the final model.
"""

import contextlib
import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.models import BaseFairseqModel
from fairseq.modules.ema_module import EMAModule, EMAModuleConfig
from torch import Tensor, nn

from fairseq_signals_ext.checkpoints.architecture import PATCHES
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.data.patch_masks import PatchMaskSettings
from fairseq_signals_ext.models.ema_targets import TargetWatch, check_decays, follow, keep_in_fp32, may_be_cast
from fairseq_signals_ext.models.encoder import Encoder, register_encoder
from fairseq_signals_ext.models.patch_predictor import PatchPredictor
from fairseq_signals_ext.models.patch_transformer import LEADS_TOGETHER, PER_LEAD, PatchTransformer, norm


@dataclass
class EcgJepaConfig(FairseqDataclass):
    """Options; the default sizes are XS."""

    in_d: int = field(default=12, metadata={"help": "number of leads of the input"})
    patch_size: int = field(default=25, metadata={"help": "samples of a patch"})
    patching: ChoiceEnum([LEADS_TOGETHER, PER_LEAD]) = field(  # type: ignore[valid-type]
        default=LEADS_TOGETHER, metadata={"help": "whether a patch is of all leads, or of one"}
    )
    register_tokens: int = field(default=1, metadata={"help": "learned tokens beside those of patches"})
    encoder_layers: int = field(default=8, metadata={"help": "layers of the encoder"})
    encoder_embed_dim: int = field(default=192, metadata={"help": "dimensions of the encoder"})
    encoder_ffn_embed_dim: int = field(default=768, metadata={"help": "dimensions between two linear layers"})
    encoder_attention_heads: int = field(default=4, metadata={"help": "attention heads of the encoder"})
    predictor_layers: int = field(
        default=8,
        metadata={"help": "layers of the predictor; 0: the mean of what is shown stands for all, which collapses"},
    )
    predictor_embed_dim: int = field(default=96, metadata={"help": "dimensions of the predictor"})
    predictor_attention_heads: int = field(default=4, metadata={"help": "attention heads of the predictor"})
    average_top_k_layers: int = field(
        default=0,
        metadata={"help": "predict the mean of the normalised outputs of so many last layers; 0: the teacher's output"},
    )
    loss: ChoiceEnum(["l1", "smooth_l1"]) = field(  # type: ignore[valid-type]
        default="l1", metadata={"help": "distance of predictions from the teacher's outputs"}
    )
    loss_beta: float = field(default=1.0, metadata={"help": "smooth_l1: squared below this difference"})
    visible_min: float = field(default=0.15, metadata={"help": "smallest share of patches that are shown"})
    visible_max: float = field(default=0.25, metadata={"help": "largest share; one is drawn for each batch"})
    mask_block: int = field(default=10, metadata={"help": "patches that are hidden one after the other, at least"})
    masks_per_target: int = field(default=1, metadata={"help": "masks of a segment, for one pass of the teacher"})
    ema_decay: float = field(default=0.998, metadata={"help": "how much of the teacher an update keeps, at first"})
    ema_end_decay: float = field(default=0.9995, metadata={"help": "the same at the end; linear in between"})
    weight_decay_schedule: List[float] = field(
        default_factory=list,
        metadata={"help": "weight decay at first and at the end, cosine in between; default: the optimizer's"},
    )
    schedule_updates: int = field(
        default=0, metadata={"help": "updates that the schedules take; 0: optimization.max_update"}
    )
    min_target_std: float = field(
        default=0.02,
        metadata={"help": "stop when the teacher's tokens deviate less than this: the training has collapsed"},
    )
    bf16_autocast: bool = field(
        default=False,
        metadata={"help": "training: compute in bf16 by autocast; weights, softmax, norms and losses stay fp32"},
    )


@register_encoder("ecg_jepa", dataclass=EcgJepaConfig)
class EcgJepaModel(Encoder, BaseFairseqModel):
    """Student, predictor and teacher; after training only the teacher.

    Shapes: N segments, L leads, S samples, T patches, K tokens (see `PatchTransformer`), P masks per segment, V visible
    and H hidden patches, E = `encoder_embed_dim`.
    """

    architecture = PATCHES

    def __init__(self, cfg: Any):
        super().__init__()
        _check(cfg)
        self.cfg = cfg
        self.student: Any = PatchTransformer(cfg)
        self.ema: Any = EMAModule(self.student, EMAModuleConfig(ema_decay=cfg.ema_decay))
        self.teacher: Any = self.ema.model  # a part of the model, so that it is saved
        keep_in_fp32(self.teacher)
        self.predictor: Any = PatchPredictor(cfg)
        self.watch = TargetWatch()

    @property
    def layers(self) -> int:
        """Number of layers of the encoder."""
        return int(self.teacher.layers)

    def layer_of(self, parameter: str) -> int:
        """Return the layer of the teacher that a parameter belongs to; -1: before the first layer."""
        parts = parameter.split(".")
        return int(parts[2]) if parts[:2] == ["teacher", "stack"] else -1

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """See `Encoder.frames`; from the teacher."""
        return self.teacher.frames(source, padding_mask, layer)

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """See `Encoder.attention`; from the teacher."""
        return self.teacher.attention(source, padding_mask)

    def for_use(self) -> nn.Module:
        """The teacher."""
        return self.teacher

    @property
    def ends_with_norm(self) -> bool:
        """See `Encoder.ends_with_norm`."""
        return True

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """See `Encoder.all_frames`; from the teacher."""
        return self.teacher.all_frames(source, padding_mask)

    def encode(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        layer: Optional[int] = None,
        **masks: Tensor,
    ) -> Dict[str, Any]:
        """Return frames in fine-tuning, see `Encoder.encode`; with `mask` only of the visible patches."""
        outputs, padding = self._outputs(source, padding_mask, masks if mask else {}, layer)
        x = norm(outputs[-1]) if layer is None else outputs[-1]
        return {"x": self.teacher.over_leads(x), "padding_mask": padding}

    def encode_all(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask: bool = False, **masks: Tensor
    ) -> Dict[str, Any]:
        """The same for all layers at once."""
        outputs, padding = self._outputs(source, padding_mask, masks if mask else {}, None)
        x = [self.teacher.over_leads(one) for one in (*outputs, norm(outputs[-1]))]
        return {"x": x, "padding_mask": padding}

    def _outputs(
        self, source: Tensor, padding_mask: Optional[Tensor], masks: Dict[str, Tensor], last: Optional[int]
    ) -> Tuple[List[Tensor], Optional[Tensor]]:
        """Return the teacher's outputs per layer, and which patches are padding; with masks only of visible patches."""
        teacher = self.teacher
        padding = None if padding_mask is None else teacher.padding_of(source, padding_mask)
        if not masks:
            return teacher.outputs(source, padding, last), padding
        visible = masks["visible_patches"][:, 0]
        found = teacher.shown_outputs(source, visible, padding, last)
        registers = len(teacher.register_tokens)
        return [x[:, registers:] for x in found], None if padding is None else padding.gather(1, visible)

    def mask_settings(self) -> PatchMaskSettings:
        """Return how the collater hides patches."""
        cfg = self.cfg
        return PatchMaskSettings(
            cfg.patch_size, (cfg.visible_min, cfg.visible_max), cfg.mask_block, cfg.masks_per_target
        )

    def drop_objective(self, keep_masks: bool = False) -> None:
        """Keep only the teacher, and let it learn."""
        super().drop_objective(keep_masks)
        self.ema = self.student = self.predictor = None
        may_be_cast(self.teacher)
        self.teacher.requires_grad_(True)

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        visible_patches: Optional[Tensor] = None,
        masked_patches: Optional[Tensor] = None,
    ) -> Dict[str, Any]:
        """Return the loss of a batch.

        Args:
            source: float, N x L x S.
            padding_mask: bool, N x S, True where a sample is padding; None: no padding.
            visible_patches, masked_patches: int64, N x P x V and N x P x H, from the collater.

        Returns:
            `losses`: `latent`, the mean distance of the values of a token, summed over hidden tokens that are not
            padding; `sample_size`: the number of these tokens, a tensor, because all ranks must give the same type.
        """
        if visible_patches is None or masked_patches is None:
            raise UserError("ecg_jepa needs masks of patches: train it with task ecg_pretraining")
        in_bf16 = self.cfg.bf16_autocast and self.training
        with torch.autocast(source.device.type, torch.bfloat16) if in_bf16 else contextlib.nullcontext():
            padding = None if padding_mask is None else self.teacher.padding_of(source, padding_mask)
            targets = self.targets(source, padding)
            predicted = self.predictions(source, visible_patches, masked_patches, padding)
        masked = masked_patches.flatten(0, 1)
        numbers = self.teacher.tokens_of(masked)
        wanted = _repeated(targets, masked_patches.size(1)).gather(1, _for_values(numbers, targets))
        distance = self._distance(predicted.float(), wanted).mean(-1)
        counted = torch.ones_like(distance)
        if padding is not None:
            counted -= self._of_tokens(_repeated(padding, masked_patches.size(1)).gather(1, masked)).float()
        return {"losses": {"latent": (distance * counted).sum()}, "sample_size": counted.sum()}

    @torch.no_grad()
    def targets(self, source: Tensor, padding: Optional[Tensor] = None) -> Tensor:
        """Return the teacher's outputs for all tokens: float32, N x K x E; arguments as for `self.teacher.outputs`."""
        # the source may be in 16 bits, the teacher is not
        outputs = self.teacher.outputs(source.float(), padding)
        if self.cfg.average_top_k_layers:
            chosen = outputs[1:][-self.cfg.average_top_k_layers :]
            targets = torch.stack([norm(output.float()) for output in chosen]).mean(0)
        else:
            targets = norm(outputs[-1].float())
        if self.training:
            of_tokens = None if padding is None else self._of_tokens(padding)
            self.watch.add(targets, of_tokens)
        return targets

    def predictions(
        self, source: Tensor, visible_patches: Tensor, masked_patches: Tensor, padding: Optional[Tensor] = None
    ) -> Tensor:
        """Predict hidden tokens from the visible patches: N P x hidden tokens x E.

        Args:
            source, visible_patches, masked_patches: as for `forward`.
            padding: bool, N x T.
        """
        masks, patches = visible_patches.size(1), int(source.size(2)) // self.cfg.patch_size
        visible, masked = visible_patches.flatten(0, 1), masked_patches.flatten(0, 1)
        padding = None if padding is None else _repeated(padding, masks)
        student = self.student
        shown = student.shown(_repeated(source, masks), visible, padding)
        of_tokens = None if padding is None else self._of_tokens(padding)
        return self.predictor(shown, student.tokens_of(visible), student.tokens_of(masked), patches, of_tokens)

    def _distance(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        if str(self.cfg.loss) == "l1":
            return F.l1_loss(predicted, wanted, reduction="none")
        return F.smooth_l1_loss(predicted, wanted, reduction="none", beta=self.cfg.loss_beta)

    def _of_tokens(self, padding: Tensor) -> Tensor:
        """Repeat the value of a patch for each of its tokens: N x T to N x K."""
        return padding.unsqueeze(-1).expand(-1, -1, self.teacher.leads).flatten(1)

    def before_update(self, optimizer: Any, update: int, updates: int) -> None:
        """Set the weight decay that the schedule defines for this update."""
        if not self.cfg.weight_decay_schedule:
            return
        first, last = self.cfg.weight_decay_schedule
        decay = last + (first - last) * (1 + math.cos(math.pi * self._done(update, updates))) / 2
        for group in optimizer.param_groups:
            group["weight_decay"] = decay

    def after_update(self, update: int, updates: int) -> None:
        """Update the teacher, and check that its output still depends on the recording.

        Raises:
            UserError: it does not depend on it, or the schedules have no end.
        """
        done = self._done(update - 1, updates)
        follow(self.ema, self.student, self.cfg.ema_decay, self.cfg.ema_end_decay, done)
        self.watch.finish(update, self.cfg.min_target_std)

    def _done(self, update: int, updates: int) -> float:
        """Return the completed fraction of the schedules, from 0 to 1."""
        total = self.cfg.schedule_updates or updates
        if total <= 0:
            raise UserError("ecg_jepa's schedules need an end: set optimization.max_update or model.schedule_updates")
        return min(update / total, 1.0)


def _repeated(x: Tensor, times: int) -> Tensor:
    """Repeat each row, copies next to each other."""
    return x.repeat_interleave(times, dim=0) if times > 1 else x


def _for_values(numbers: Tensor, x: Tensor) -> Tensor:
    """Expand token numbers, N x M, to the values of x, for `gather`."""
    return numbers.unsqueeze(-1).expand(-1, -1, x.size(-1))


def _check(cfg: Any) -> None:
    """Raise a `UserError` if options do not fit each other."""
    parts = 4 if str(cfg.patching) == PER_LEAD else 2
    for part in ("encoder", "predictor"):
        width, heads = (int(getattr(cfg, f"{part}_{option}")) for option in ("embed_dim", "attention_heads"))
        if width % heads or width % parts:
            raise UserError(
                f"model.{part}_embed_dim={width}: must be a multiple of {part}_attention_heads={heads}, and of {parts} "
                f"for sines and cosines"
            )
    if cfg.average_top_k_layers > cfg.encoder_layers:
        raise UserError(
            f"model.average_top_k_layers={cfg.average_top_k_layers}: there are encoder_layers={cfg.encoder_layers}"
        )
    if len(cfg.weight_decay_schedule) not in (0, 2):
        raise UserError("model.weight_decay_schedule: give two numbers, such as [0.01,0.1], or leave it out")
    check_decays(cfg)
