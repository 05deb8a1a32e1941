"""What the package needs from any encoder; ECG-FM's wav2vec 2.0 is the first.

The classifier, `load`, `embed`, `explain`, `export` and the reading of checkpoints know encoders by this interface
only: a transformer of patches, convolutions or a state-space model implement it alike.
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

# of a pretraining's parameters, those that only its objective needs
HEADS = "heads."

_Model = TypeVar("_Model", bound=Type[Any])


class LoadsStrictly:
    """Mixin, before fairseq's model class: names the first parameters in which a checkpoint differs."""

    def difference_from(self, parameters: Mapping[str, Tensor]) -> Optional[str]:
        """In which parameters a checkpoint differs from the model, in one line; None if it can be loaded."""
        return self._difference(dict(parameters))

    def _difference(self, state_dict: Dict[str, Tensor]) -> Optional[str]:
        model: Any = self
        model.upgrade_state_dict(state_dict)
        return difference_of_parameters(state_dict, model.state_dict())

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], strict: bool = True, model_cfg: Any = None, args: Any = None
    ) -> Any:
        """As fairseq's, but names the first parameters that differ.

        Raises:
            UserError: `strict`, and a parameter is missing, unknown or of another shape.
            SystemExit: the same when fairseq's trainer or loader called, which would hide the message.
        """
        problem = self._difference(state_dict)
        if strict and problem:
            message = f"the checkpoint belongs to another model than {type(self).__name__} with this config: {problem}"
            raise UserError(message) if model_cfg is None else SystemExit(f"error: {message}")
        return super().load_state_dict(state_dict, strict=strict, model_cfg=model_cfg, args=args)  # type: ignore[misc]


class Encoder(LoadsStrictly):
    """Mixin, before fairseq's model class; a subclass gives `architecture`, `dimensions` and `frames`.

    Shapes: N segments, L leads, S samples, T frames, E = `dimensions`.

    Attributes:
        architecture: how its config is read.
        cfg: its options; `in_d`, if there is one, is L.
    """

    architecture: ClassVar[Architecture]
    cfg: Any

    @property
    def dimensions(self) -> int:
        """E, values of a frame."""
        raise NotImplementedError

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """Frames of segments, with gradient, without branches that depend on data, so that it can be exported.

        Args:
            source: float32, N x L x S, standardised.
            padding_mask: bool, N x S, True where a sample is padding, which is at the end.
            layer: 1 to `layers`: after that layer; 0: what the first is given; None: the encoder's output.

        Returns:
            x: N x T x E.
            padding: bool, N x T, True where a frame is of padding; see `padding_of_frames`.
        """
        raise NotImplementedError

    @property
    def layers(self) -> int:
        """Number of layers that `frames` can be asked for."""
        return 0

    @property
    def ends_with_norm(self) -> bool:
        """Whether the encoder's output is not that of its last layer, but what a last norm makes of it."""
        return False

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """Frames of all layers, with gradient; where one pass can give them, override this.

        Args:
            source, padding_mask: as `frames`.

        Returns:
            x: N x T x E for each of the layers 0 to `layers`, and last the encoder's output where that is another
                (`ends_with_norm`); of an encoder without layers its output only.
            padding: bool, N x T, as `frames`.
        """
        layers: List[Optional[int]] = [*range(self.layers + 1)] if self.layers else []
        if self.ends_with_norm or not layers:
            layers.append(None)
        found = [self.frames(source, padding_mask, layer) for layer in layers]
        return [x for x, _ in found], found[-1][1]

    def attention(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """Attention weights of all layers, means over their heads: N x layers x T (queries) x T (keys).

        An encoder that does not define this has no attention, and `explain` refuses methods that need it.
        """
        raise NotImplementedError

    @property
    def is_smooth(self) -> bool:
        """Whether frames follow the input with gradients that explain them; not through a choice of codewords."""
        return True

    @property
    def geometry(self) -> Geometry:
        """How frames lie over samples."""
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
        """Frames while training: `x` (N x T x E), `padding_mask` (bool, N x T, or None).

        Args:
            source, padding_mask, layer: as `frames`; no mask where nothing is padded.
            mask: mask frames in time, if the encoder can.
            masks: those of the collater, see `mask_settings`.
        """
        x, padding = self.frames(source, _whole_unless(padding_mask, source), layer)
        return {"x": x, "padding_mask": None if padding_mask is None else padding}

    def encode_all(
        self, source: Tensor, padding_mask: Optional[Tensor] = None, mask: bool = False, **masks: Tensor
    ) -> Dict[str, Any]:
        """The same for all layers at once: `x` is the list that `all_frames` gives."""
        x, padding = self.all_frames(source, _whole_unless(padding_mask, source))
        return {"x": x, "padding_mask": None if padding_mask is None else padding}

    def is_above(self, parameter: str, layer: int) -> bool:
        """Whether the frames after a layer, 0 to `layers`, do not depend on a parameter, by its name."""
        return self.layer_of(parameter) >= layer

    def for_use(self) -> nn.Module:
        """A module without what trains it.

        It has `frames`, `all_frames`, `attention`, `layers`, `ends_with_norm`, `is_smooth` and `geometry` as here.
        """
        module: Any = self
        return module

    def drop_objective(self, keep_masks: bool = False) -> None:
        """Remove what only a pretraining needs; `keep_masks`: but for what masks frames."""
        self._modules.pop("heads", None)  # type: ignore[attr-defined]

    def mask_settings(self) -> "Optional[Masks]":
        """What the collater masks for the model; None: nothing."""
        return None

    def before_update(self, optimizer: Any, update: int, updates: int) -> None:
        """What to do before an update of a pretraining, such as to change options of the optimizer.

        Args:
            optimizer: fairseq's.
            update: how many there were.
            updates: `optimization.max_update`, 0 where the training is limited otherwise.
        """

    def after_update(self, update: int, updates: int) -> None:
        """What to do after an update of a pretraining, before anything is saved; arguments as before it, one more."""

    def layer_of(self, parameter: str) -> int:
        """Of which layer, from 0, a parameter is, for rates of learning that fall from layer to layer; -1: of none."""
        return -1

    def add_head(self, name: str, head: nn.Module) -> None:
        """Add layers that an objective needs, as `heads[name]`, with the parameters that a loaded checkpoint has.

        They are saved with the model, and dropped wherever its encoder is used.

        Raises:
            UserError: a loaded checkpoint has others.
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
        """Parameters of heads that a loaded checkpoint has and the model not, or not yet."""
        return self.__dict__.setdefault("_heads_of_checkpoint", {})

    def upgrade_state_dict_named(self, state_dict: Dict[str, Tensor], name: str) -> Dict[str, Tensor]:
        """fairseq's; sets aside, out of `state_dict`, heads that the model does not have; see `add_head`."""
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
    """Which frames reach into padding: bool, N x T.

    Args:
        x: N x T x E.
        padding_mask: bool, N x S.
    """
    valid = geometry.frames((~padding_mask).sum(-1, keepdim=True))
    # counted on the input's device: tracing would keep the device of arange
    numbers = x.new_ones(()).expand(x[:1, :, 0].shape).cumsum(1) - 1
    return numbers >= valid


_ENCODERS: Dict[str, Tuple[Type[Any], Type[FairseqDataclass]]] = {}


def register_encoder(name: str, dataclass: Type[FairseqDataclass]) -> Callable[[_Model], _Model]:
    """fairseq's `register_model` for an `Encoder`, and leave for checkpoints to name it.

    Args:
        name: for `model._name` of a pretraining, and `model.encoder._name` of a classifier.
        dataclass: of its options.
    """

    def register(model: _Model) -> _Model:
        registered = register_model(name, dataclass=dataclass)(model)
        allow("model", name)
        ARCHITECTURES[name] = model.architecture
        _ENCODERS[name] = (model, dataclass)
        return registered

    return register


def build_encoder(config: Mapping[str, Any]) -> Any:
    """A registered encoder by its name, `_name`, and options.

    Raises:
        UserError: there is none of this name.
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
