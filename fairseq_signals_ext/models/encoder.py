"""What the package asks of an encoder, whatever is in it; ECG-FM's wav2vec 2.0 is the first."""

from typing import Any, Dict

from torch import Tensor, nn

from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.models.strict_loading import LoadsStrictly

# of a pretraining's parameters, those that only its objective needs
HEADS = "heads."


class Encoder(LoadsStrictly):
    """Mixin, before fairseq's model class."""

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
