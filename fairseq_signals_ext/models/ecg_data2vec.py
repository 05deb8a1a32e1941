"""data2vec on ECG-FM's encoder (arXiv 2202.03555): regression of masked frames on a teacher's outputs.

It is ECG-FM's model with another objective, instead of the quantized contrast or in addition to it, and can start from
ECG-FM's weights. The teacher is a moving average of the transformer; it shares convolutions and positions with the
student, as in data2vec. The student is the final model, as in data2vec, and has the parameter names of ECG-FM.
"""

import contextlib
import logging
import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.dataclass import ChoiceEnum
from fairseq.modules import EMAModule, EMAModuleConfig
from torch import Tensor, nn

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models.ecg_wav2vec2 import Wav2Vec2CmscConfig, Wav2Vec2CmscModel
from fairseq_signals_ext.models.ema_targets import TargetWatch, check_decays, follow, keep_in_fp32
from fairseq_signals_ext.models.encoder import register_encoder

logger = logging.getLogger(__name__)

REGRESSION, BOTH = "regression", "both"
_EPSILON = 1e-5  # as torch's instance norm
_TEACHER, _TRANSFORMER = "teacher.", "encoder."


@dataclass
class EcgData2VecConfig(Wav2Vec2CmscConfig):
    """ECG-FM's options, and those of the teacher."""

    loss: ChoiceEnum([REGRESSION, BOTH]) = field(  # type: ignore[valid-type]
        default=REGRESSION,
        metadata={"help": "regression on the teacher in place of ECG-FM's quantized contrast, or both of them"},
    )
    average_top_k_layers: int = field(
        default=8, metadata={"help": "targets are the mean of the normalised outputs of so many last layers, or of all"}
    )
    loss_beta: float = field(
        default=0.0, metadata={"help": "smooth L1: squared below this difference; 0: squared everywhere"}
    )
    ema_decay: float = field(default=0.999, metadata={"help": "how much of the teacher an update keeps, at first"})
    ema_end_decay: float = field(default=0.9999, metadata={"help": "the same at the end; linear in between"})
    ema_anneal_updates: int = field(default=30000, metadata={"help": "updates until the end value"})
    min_target_std: float = field(
        default=0.01,
        metadata={"help": "stop when the teacher's frames deviate less than this: the training has collapsed"},
    )


@register_encoder("ecg_data2vec", dataclass=EcgData2VecConfig)
class EcgData2VecModel(Wav2Vec2CmscModel):
    """ECG-FM's model with a teacher.

    Shapes: as those of `EcgWav2Vec2Model`.
    """

    def __init__(self, cfg: Any):
        _check(cfg)
        super().__init__(cfg)
        if str(cfg.loss) == REGRESSION:
            self.remove_pretraining_modules()
        self.regression_head: Any = nn.Linear(self.dimensions, self.dimensions)
        self.teacher: Any = self.copy_of_transformer().requires_grad_(False).eval()  # a submodule, so that it is saved
        keep_in_fp32(self.teacher)
        positions = {f"pos_conv.{name}" for name, _ in self.encoder.pos_conv.named_parameters()}
        options = EMAModuleConfig(ema_decay=cfg.ema_decay)
        self.ema: Any = EMAModule(self.teacher, options, copy_model=False, skip_keys=positions)
        self.watch = TargetWatch()
        self.takes_encoders = False
        self._has_logged = False
        self._masked: Any = None

    def forward(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = True,
        features_only: bool = False,
        layer: Optional[int] = None,
        mask_indices: Optional[Tensor] = None,
        mask_channel_indices: Optional[Tensor] = None,
        masked_frames: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> Dict[str, Any]:
        """As `EcgWav2Vec2Model.forward`; in training also the loss.

        Returns:
            With `features_only=False`, also `regression`, the distance from the targets over the root of E, summed over
            masked frames, and `frames`, their number. Without the contrast only these, `features` and `padding_mask`.
        """
        alone = features_only or str(self.cfg.loss) == REGRESSION
        given = layer, mask_indices, mask_channel_indices, masked_frames
        with self._keeping_projected() as kept:
            result = super().forward(source, padding_mask, mask, alone, *given, **kwargs)
        if features_only or not mask:
            return result
        masked, self._masked = self._masked, None
        if alone:
            result = {"features": result["x"], "padding_mask": result["padding_mask"]}
        targets = self.targets(kept[0], result["padding_mask"])
        predicted = self.regression_head(result["features"][masked]).float()
        distance = self._distance(predicted, targets[masked]).sum(dim=-1)
        return {**result, "regression": distance.sum() / math.sqrt(self.dimensions), "frames": distance.numel()}

    @torch.no_grad()
    def targets(self, projected: Tensor, padding: Optional[Tensor] = None) -> Tensor:
        """Return the teacher's outputs for all frames, unmasked: float32, N x T x E.

        Args:
            projected: N x T x E, the transformer's input before dropout and masks.
            padding: bool, N x T, True where a frame is padding.
        """
        frames = projected.size(1)
        in_bf16 = self.cfg.bf16_autocast and self.training
        with torch.autocast(projected.device.type, torch.bfloat16) if in_bf16 else contextlib.nullcontext():
            # fairseq sets padding to zero in place
            _, results = self.teacher(projected.float().clone(), padding_mask=padding)
        outputs = [output.transpose(0, 1)[:, :frames].float() for output, *_ in results]
        chosen = torch.stack(outputs[-self.cfg.average_top_k_layers :])
        if self.training:
            # before normalising, which would amplify noise in collapsed outputs
            self.watch.add(chosen.mean(0), padding)
        return torch.stack([_instance_norm(output, padding) for output in chosen]).mean(0)

    def _distance(self, predicted: Tensor, targets: Tensor) -> Tensor:
        if self.cfg.loss_beta > 0:
            return F.smooth_l1_loss(predicted, targets, reduction="none", beta=self.cfg.loss_beta)
        return F.mse_loss(predicted, targets, reduction="none")

    @contextlib.contextmanager
    def _keeping_projected(self) -> Iterator[List[Tensor]]:
        """Collect the transformer's input, before dropout and masks."""
        kept: List[Tensor] = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            # later code may change it in place
            kept.append(output.detach().clone())

        last = self.layer_norm if self.post_extract_proj is None else self.post_extract_proj
        hook = last.register_forward_hook(keep)
        try:
            yield kept
        finally:
            hook.remove()

    def apply_mask(self, *args: Any, **kwargs: Any) -> Tuple[Tensor, Any]:
        """As `EcgWav2Vec2Model.apply_mask`; remember which frames were masked."""
        x, self._masked = super().apply_mask(*args, **kwargs)
        return x, self._masked

    def after_update(self, update: int, updates: int) -> None:
        """Update the teacher, and check that it has not collapsed.

        Raises:
            UserError: it has collapsed.
        """
        done = min((update - 1) / max(self.cfg.ema_anneal_updates, 1), 1.0)
        follow(self.ema, self.encoder, self.cfg.ema_decay, self.cfg.ema_end_decay, done)
        self.watch.finish(update, self.cfg.min_target_std)

    def train(self, mode: bool = True) -> "EcgData2VecModel":
        """As torch's; the teacher has no dropout."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def drop_objective(self, keep_masks: bool = False) -> None:
        """Remove the parts that only pretraining needs, including the teacher."""
        super().drop_objective(keep_masks)
        self.ema = self.teacher = self.regression_head = None

    def take_encoders(self) -> None:
        """From now on, also load checkpoints of ECG-FM's model, with a new teacher and head; logged once.

        For a training started with `checkpoint.finetune_from_model`; elsewhere it would be a mistake.
        """
        self.takes_encoders = True

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> Dict[str, Tensor]:
        """As in `EcgWav2Vec2Model`; complete, in place, a model without teacher, if `take_encoders` allowed it."""
        super().upgrade_state_dict_named(state_dict, name)
        if self.takes_encoders and not any(key.startswith(_TEACHER) for key in state_dict):
            self._complete(state_dict)
        return state_dict

    def _complete(self, state: Dict[str, Tensor]) -> None:
        own, of_objective = self.state_dict(), self.architecture.of_objective
        left_out = [key for key in state if key not in own and key.startswith(of_objective)]
        new = [key for key in own if key not in state and key.startswith(of_objective) and not key.startswith(_TEACHER)]
        for key in left_out:
            del state[key]
        state.update({key: own[key] for key in new})
        teacher = {f"{_TEACHER}{key[len(_TRANSFORMER) :]}": key for key in state if key.startswith(_TRANSFORMER)}
        state.update({key: state[source].float() for key, source in teacher.items()})
        if not self._has_logged:  # called once more when the checkpoint is loaded
            logger.info(
                f"begins with another model's weights: the teacher is a copy of its transformer; new, from random "
                f"weights: {_parts(new)}; left out: {_parts(left_out)}"
            )
        self._has_logged = True

    def __getstate__(self) -> Dict[str, Any]:
        """As in `EcgWav2Vec2Model`."""
        return {**super().__getstate__(), "_masked": None}


def _parts(keys: List[str]) -> str:
    return ", ".join(dict.fromkeys(key.split(".")[0] for key in keys)) or "nothing"


def _instance_norm(x: Tensor, padding: Optional[Tensor]) -> Tensor:
    """Normalise each value by its mean and deviation over the segment's frames without padding: N x T x E."""
    weights = x.new_ones(x.shape[:2]) if padding is None else (~padding).to(x.dtype)
    weights = (weights / weights.sum(dim=1, keepdim=True)).unsqueeze(-1)
    x = x - (x * weights).sum(dim=1, keepdim=True)
    return x / torch.sqrt((x.square() * weights).sum(dim=1, keepdim=True) + _EPSILON)


def _check(cfg: Any) -> None:
    """Raise a `UserError` if options do not fit each other."""
    check_decays(cfg)
    if cfg.average_top_k_layers < 1:
        raise UserError(f"model.average_top_k_layers={cfg.average_top_k_layers}: use 1 or more")
    if cfg.loss_beta < 0:
        raise UserError(f"model.loss_beta={cfg.loss_beta:g}: use 0, or a number above")
