"""`fairseq-validate --path a.pt:b.pt`: several models as one, with the mean of their scores.

fairseq takes the option as the name of one file, and validates only the first of several models.
"""

from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.models import BaseFairseqModel
from torch import Tensor

from fairseq_signals_ext.checkpoints.describing import KINDS_BY_TASK, check_ensemble, describe, differences_of_inputs
from fairseq_signals_ext.checkpoints.description import ModelDescription
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.common.errors import UserError, exits_on_user_error
from fairseq_signals_ext.criterions.ranks import gather_from_all_ranks
from fairseq_signals_ext.evaluation.predictions import Predictions
from fairseq_signals_ext.tasks._wrapping import wrapping

_COLUMNS = ("id", "idx", "patient_id", "label")


class PredictionCollector:
    """Collect a model's predictions for segments.

    fairseq's logging outputs would either sum scores or send them as pickles of at most `all_gather_list_size` bytes.
    Here each rank keeps its scores, and they are gathered once, as tensors.
    """

    def __init__(self) -> None:
        self.batches = 0
        self._rows: Dict[str, List[Tensor]] = {key: [] for key in (*_COLUMNS, "scores")}

    def add(self, sample: Dict[str, Any], scores: Tensor) -> None:
        """Add a batch of `LabelledEcgDataset` and the scores (float64, N x L) of its segments."""
        self.batches += 1
        for key in _COLUMNS:
            self._rows[key].append(sample[key].cpu())
        self._rows["scores"].append(scores.cpu())

    def gather(self, label_names: Tuple[str, ...], **facts: Any) -> Predictions:
        """Gather the predictions of all ranks, in the order of the data set; all ranks must call it, and get all.

        fairseq repeats an earlier batch for a rank that has no more; here each segment counts once.

        Args:
            facts: other arguments of `Predictions`.
        """
        device = torch.device("cuda") if dist.is_initialized() and dist.get_backend() == "nccl" else torch.device("cpu")
        rows = {key: gather_from_all_ranks(torch.cat(pieces).to(device)).cpu() for key, pieces in self._rows.items()}
        _, first = np.unique(rows["id"].numpy(), return_index=True)
        return Predictions(
            scores=rows["scores"].numpy()[first],
            targets=rows["label"].numpy()[first],
            idx=rows["idx"].numpy()[first],
            patient=rows["patient_id"].numpy()[first],
            label_names=label_names,
            **facts,
        )


class ModelEnsemble(BaseFairseqModel):
    """Classifiers as one: the criterion's scores for their output are the means of the scores of each.

    Args:
        models: of one task, from checkpoints.
        descriptions: of these models.
    """

    def __init__(self, models: Sequence[Any], descriptions: Sequence[ModelDescription]):
        super().__init__()
        self.models = torch.nn.ModuleList(models)
        self.cfg = models[0].cfg
        self._descriptions = descriptions

    def forward(self, **net_input: Tensor) -> Dict[str, Any]:
        """Return `out`, float64, B x L, labels as in the first model: logits, or a regression's standardised values."""
        first = self._descriptions[0]
        outputs = []
        for model, description in zip(self.models, self._descriptions):
            columns = [description.label_names.index(name) for name in first.label_names]
            output = model.get_logits(model(**net_input)).double()
            outputs.append(_in_units(output, description)[:, columns])
        return {"out": _mean(torch.stack(outputs), first)}

    def get_logits(self, net_output: Dict[str, Any], **kwargs: Any) -> Tensor:
        """Return outputs, B x L, from the result of `forward`."""
        return net_output["out"]

    def get_targets(self, sample: Dict[str, Any], net_output: Dict[str, Any]) -> Tensor:
        """Return the labels of a batch, as each model does."""
        return self.models[0].get_targets(sample, net_output)

    def max_positions(self) -> Any:
        """Return the limit of each model."""
        return self.models[0].max_positions()


def _in_units(output: Tensor, description: ModelDescription) -> Tensor:
    if not description.of_kind.is_scaled:
        return output
    return output * output.new_tensor(description.target_std) + output.new_tensor(description.target_mean)


def _mean(outputs: Tensor, first: ModelDescription) -> Tensor:
    """Return the mean output, B x L, of outputs, models x B x L."""
    found = first.of_kind.mean_of(outputs, first.activation)
    if not first.of_kind.is_scaled:
        return found
    return (found - outputs.new_tensor(first.target_mean)) / outputs.new_tensor(first.target_std)


def patch_ensemble_loading() -> None:
    """Make fairseq load `a.pt:b.pt` for one of our tasks as one model; calling it again is harmless."""

    @wrapping(checkpoint_utils, "load_model_ensemble_and_task")
    def load_ensemble(load: Any, filenames: Any, arg_overrides: Any = None, *args: Any, **kwargs: Any) -> Any:
        names = [str(name) for name in filenames]
        is_ours = (arg_overrides or {}).get("task") in KINDS_BY_TASK
        if not is_ours or len(names) != 1 or ":" not in names[0] or Path(names[0]).exists():
            return load(filenames, arg_overrides, *args, **kwargs)
        paths = [name for name in names[0].split(":") if name]
        # one by one, because each takes labels and scale from its own checkpoint
        loaded = [load([path], arg_overrides, *args, **kwargs) for path in paths]
        descriptions = _descriptions(paths)
        _, cfg, task = loaded[0]
        return [ModelEnsemble([models[0] for models, _, _ in loaded], descriptions)], cfg, task


@exits_on_user_error
def _descriptions(paths: Sequence[str]) -> List[ModelDescription]:
    """Return the descriptions of models, and check that they can be an ensemble for the same batches."""
    descriptions = [describe(read_checkpoint(Path(path))) for path in paths]
    first = descriptions[0]
    for path, description in zip(paths, descriptions):
        pair = f"{path}: cannot be in an ensemble with {paths[0]}"
        if description.output_name is None:
            raise UserError(f"{path}: is a pretrained model without labels; validate it alone")
        check_ensemble(first, description, pair)
        found = differences_of_inputs(first.preprocessing, description.preprocessing)
        if found:
            raise UserError(f"{pair}: {'; '.join(found)}; use fairseq-signals-ext predict --ensemble")
    return descriptions
