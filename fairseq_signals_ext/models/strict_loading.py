"""Loading a checkpoint strictly, with a message that names what differs."""

from typing import Any, Dict, Mapping, Optional

from torch import Tensor

from fairseq_signals_ext.checkpoints.parameter_names import difference_of_parameters
from fairseq_signals_ext.errors import UserError


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
            message = f"the checkpoint is of another model than {type(self).__name__} with this config: {problem}"
            raise UserError(message) if model_cfg is None else SystemExit(f"error: {message}")
        return super().load_state_dict(state_dict, strict=strict, model_cfg=model_cfg, args=args)  # type: ignore[misc]
