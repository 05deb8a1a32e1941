"""The interface of an encoder; ECG-FM's wav2vec 2.0 is one implementation.

The classifier, `load`, `embed`, `explain`, `export` and the reading of checkpoints use only this interface, so a
transformer of patches, convolutions or a state-space model can implement it.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, Iterator, List, Mapping, Optional, Tuple, Type, TypeVar

from fairseq.dataclass import FairseqDataclass
from fairseq.models import register_model
from omegaconf import OmegaConf
from torch import Tensor, nn

from fairseq_signals_ext.checkpoints.allowed import allow
from fairseq_signals_ext.checkpoints.architecture import ARCHITECTURES, Architecture, difference_of_parameters
from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.common.errors import UserError

if TYPE_CHECKING:
    from fairseq_signals_ext.data.collating import Masks

# prefix of parameters that only the pretraining objective needs
HEADS = "heads."

_Model = TypeVar("_Model", bound=Type[Any])


class LoadsStrictly:
    """Mixin, before fairseq's model class: names the first parameters in which a checkpoint differs."""

    def difference_from(self, parameters: Mapping[str, Tensor]) -> Optional[str]:
        """Return in one line which parameters of a checkpoint differ from the model; None if it can be loaded."""
        return self._difference(dict(parameters))

    def _difference(self, state_dict: Dict[str, Tensor]) -> Optional[str]:
        model: Any = self
        model.upgrade_state_dict(state_dict)
        return difference_of_parameters(state_dict, model.state_dict())

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], strict: bool = True, model_cfg: Any = None, args: Any = None
    ) -> Any:
        """Load parameters as fairseq does, but name the first ones that differ.

        Raises:
            UserError: `strict`, and a parameter is missing, unknown or of another shape.
            SystemExit: the same, if fairseq's trainer or loader calls, because they would hide a `UserError`.
        """
        problem = self._difference(state_dict)
        if strict and problem:
            message = f"the checkpoint belongs to another model than {type(self).__name__} with this config: {problem}"
            raise UserError(message) if model_cfg is None else SystemExit(f"error: {message}")
        return super().load_state_dict(state_dict, strict=strict, model_cfg=model_cfg, args=args)  # type: ignore[misc]


class Encoder(LoadsStrictly):
    """Mixin, before fairseq's model class; a subclass defines `architecture`, `dimensions` and `frames`.

    Shapes: N segments, L leads, S samples, T frames, E = `dimensions`.

    Attributes:
        architecture: how to read its config.
        cfg: its options; `in_d`, if present, is L.
    """

    architecture: ClassVar[Architecture]
    cfg: Any

    @property
    def dimensions(self) -> int:
        """E, the number of values per frame; by default the option `encoder_embed_dim`."""
        return int(self.cfg.encoder_embed_dim)

    @classmethod
    def build_model(cls, cfg: Any, task: Any = None) -> Any:
        """Build the model for a config; by default its constructor takes nothing else."""
        build: Any = cls
        return build(cfg)

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Return the frames of segments, with gradient. No branch depends on data, so that it can be exported.

        Args:
            source: float32, N x L x S, standardised.
            padding_mask: bool, N x S, True where a sample is padding; padding is at the end.
            layer: 1 to `layers`: the output of that layer; 0: the input of the first; None: the encoder's output.

        Returns:
            x: N x T x E.
            padding: bool, N x T, True where a frame is padding; see `padding_of_frames`.
        """
        raise NotImplementedError

    @property
    def layers(self) -> int:
        """Number of layers that `frames` can return."""
        return 0

    @property
    def ends_with_norm(self) -> bool:
        """Whether a norm after the last layer gives the encoder's output."""
        return False

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """Return the frames of all layers, with gradient; override this if one pass can compute them.

        Args:
            source, padding_mask: as `frames`.

        Returns:
            x: N x T x E for each of the layers 0 to `layers`, then the encoder's output if it differs from the last
                one (`ends_with_norm`); only the output for an encoder without layers.
            padding: bool, N x T, as `frames`.
        """
        layers: List[Optional[int]] = [*range(self.layers + 1)] if self.layers else []
        if self.ends_with_norm or not layers:
            layers.append(None)
        found = [self.frames(source, padding_mask, layer) for layer in layers]
        return [x for x, _ in found], found[-1][1]

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Return the attention weights of all layers, mean over heads: N x layers x T (queries) x T (keys).

        An encoder that does not define this has no attention, and `explain` refuses methods that need it.
        """
        raise NotImplementedError

    @property
    def is_smooth(self) -> bool:
        """Whether gradients with respect to the input explain the frames; not if codewords are chosen."""
        return True

    @property
    def geometry(self) -> Geometry:
        """The samples that each frame covers."""
        found = self.architecture.geometry(dict(self.cfg))
        if found is None:
            raise UserError(f"{type(self).__name__}: its config does not define how frames lie over samples")
        return found

    def encode(
        self,
        source: Tensor,
        padding_mask: Optional[Tensor] = None,
        mask: bool = False,
        layer: Optional[int] = None,
        **masks: Tensor,
    ) -> Dict[str, Any]:
        """Return frames in training: `x` (N x T x E), `padding_mask` (bool, N x T, or None).

        Args:
            source, padding_mask, layer: as for `frames`; None as `padding_mask` if nothing is padded.
            mask: mask frames in time, if the encoder supports it.
            masks: from the collater, see `mask_settings`.
        """
        x, padding = self.frames(source, _whole_unless(padding_mask, source), layer)
        return {"x": x, "padding_mask": None if padding_mask is None else padding}

    def encode_all(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask: bool = False, **masks: Tensor
    ) -> Dict[str, Any]:
        """The same for all layers at once: `x` is the list from `all_frames`."""
        x, padding = self.all_frames(source, _whole_unless(padding_mask, source))
        return {"x": x, "padding_mask": None if padding_mask is None else padding}

    def is_above(self, parameter: str, layer: int) -> bool:
        """Whether the output of a layer, 0 to `layers`, does not depend on the parameter of this name."""
        return self.layer_of(parameter) >= layer

    def for_use(self) -> nn.Module:
        """Return a module without the parts for training.

        It has the same `frames`, `all_frames`, `attention`, `layers`, `ends_with_norm`, `is_smooth` and `geometry`.
        """
        module: Any = self
        return module

    def drop_objective(self, keep_masks: bool = False) -> None:
        """Remove the parts that only pretraining needs; `keep_masks`: keep the parameters that mask frames."""
        self._modules.pop("heads", None)  # type: ignore[attr-defined]

    def mask_settings(self) -> "Optional[Masks]":
        """Return how the collater masks inputs for the model; None: not at all."""
        return None

    def before_update(self, optimizer: Any, update: int, updates: int) -> None:
        """Prepare an update of a pretraining, for example by changing options of the optimizer.

        Args:
            optimizer: fairseq's.
            update: number of updates so far.
            updates: `optimization.max_update`; 0 if another option limits the training.
        """

    def after_update(self, update: int, updates: int) -> None:
        """Complete an update of a pretraining, before anything is saved; `update` now counts this one as well."""

    def layer_of(self, parameter: str) -> int:
        """Return the layer, from 0, that a parameter belongs to, for layer-wise learning rates; -1: none."""
        return -1

    def add_head(self, name: str, head: nn.Module) -> None:
        """Add layers that an objective needs, as `heads[name]`, with a loaded checkpoint's parameters if it has any.

        They are saved with the model and removed where its encoder is used.

        Raises:
            UserError: the checkpoint's layers are different.
        """
        model: Any = self
        if "heads" not in model._modules:
            model.heads = nn.ModuleDict()
        if name in model.heads:
            return
        saved = self._saved_heads().pop(name, None)
        if saved is not None:
            try:
                head.load_state_dict(saved)
            except RuntimeError:
                raise UserError(f"the checkpoint's head {name!r} is of other layers; give another file") from None
        model.heads[name] = head.to(next(model.parameters()))

    def _saved_heads(self) -> Dict[str, Dict[str, Tensor]]:
        """Parameters of heads in a loaded checkpoint that the model does not have, or not yet."""
        return self.__dict__.setdefault("_heads_of_checkpoint", {})

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> Dict[str, Tensor]:
        """Move heads that the model does not have out of `state_dict` and keep them for `add_head`."""
        super().upgrade_state_dict_named(state_dict, name)  # type: ignore[misc]
        model: Any = self
        own = model._modules.get("heads") or ()
        for key in [key for key in state_dict if key.startswith(HEADS) and not name]:
            head, _, parameter = key[len(HEADS) :].partition(".")
            if head not in own:
                self._saved_heads().setdefault(head, {})[parameter] = state_dict.pop(key)
        return state_dict


def _whole_unless(padding_mask: Optional[Tensor], source: Tensor) -> Tensor:
    return source.new_zeros(source[:, 0].shape).bool() if padding_mask is None else padding_mask


def padding_of_frames(x: Tensor, padding_mask: Tensor, geometry: Geometry) -> Tensor:
    """Return which frames include padding: bool, N x T.

    Args:
        x: N x T x E.
        padding_mask: bool, N x S.
    """
    valid = geometry.frames((~padding_mask).sum(-1, keepdim=True))
    # computed from x: with arange, tracing would fix the device
    numbers = x.new_ones(()).expand(x[:1, :, 0].shape).cumsum(1) - 1
    return numbers >= valid


_ENCODERS: Dict[str, Tuple[Type[Any], Type[FairseqDataclass]]] = {}


def register_encoder(name: str, dataclass: Type[FairseqDataclass]) -> Callable[[_Model], _Model]:
    """Register an `Encoder` with fairseq's `register_model`, and allow checkpoints to name it.

    Args:
        name: for `model._name` of a pretraining, and `model.encoder._name` of a classifier.
        dataclass: its options.
    """

    def register(model: _Model) -> _Model:
        registered = register_model(name, dataclass=dataclass)(model)
        allow("model", name)
        ARCHITECTURES[name] = model.architecture
        _ENCODERS[name] = (model, dataclass)
        return registered

    return register


def build_encoder(config: Mapping[str, Any]) -> Any:
    """Build a registered encoder from its name, `_name`, and options.

    Raises:
        UserError: the name is unknown.
    """
    name = config.get("_name")
    if name not in _ENCODERS:
        raise UserError(f"model.encoder {str(name):.60}: use one of {', '.join(sorted(_ENCODERS))}")
    model, dataclass = _ENCODERS[name]
    return model.build_model(
        OmegaConf.merge(OmegaConf.structured(dataclass()), dict(_options(config, dataclass))), None
    )


def _options(config: Mapping[str, Any], dataclass: Type[FairseqDataclass]) -> Iterator[Tuple[str, Any]]:
    for option in fields(dataclass):
        if option.name in config:
            yield option.name, config[option.name]
