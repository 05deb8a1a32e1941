"""What a checkpoint says of a subset: the same task, data set and batches as `fairseq-validate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Tuple

from fairseq_signals_ext.checkpoints.describing import KINDS_BY_TASK
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.errors import UserError
from fairseq_signals_ext.evaluation.predictions import Predictions


@dataclass(frozen=True)
class PredictOptions:
    """How a subset is run through a model.

    Attributes:
        batch_size: segments in a batch.
        num_workers: processes that load data.
        label_file: labels; None: those of the checkpoint.
        cpu: do not use a GPU that is there.
        progress: show a progress bar.
    """

    batch_size: int = 64
    num_workers: int = 1
    label_file: Optional[str] = None
    cpu: bool = False
    progress: bool = True


def predict_subset(checkpoint: Path, data: Optional[Path], subset: str, options: PredictOptions) -> Predictions:
    """Scores and targets of all segments of a subset.

    Args:
        checkpoint: of a task with labels.
        data: folder with the manifest `subset`.tsv; None: that of the checkpoint.

    Raises:
        UserError: the checkpoint, the manifest, the labels or a recording cannot be used.
        SystemExit: the same, where fairseq's own code is in between.
    """
    import torch
    from fairseq import utils
    from tqdm import tqdm

    model, criterion, task = load_classifier(checkpoint)
    if data is not None:
        task.cfg.data = str(data)
    if options.label_file is not None:
        task.cfg.label_file = options.label_file
    use_cuda = torch.cuda.is_available() and not options.cpu
    if use_cuda:
        model.cuda()
        criterion.cuda()
    task.load_dataset(subset)
    batches = task.get_batch_iterator(
        dataset=task.dataset(subset), max_sentences=options.batch_size, num_workers=options.num_workers
    ).next_epoch_itr(shuffle=False)
    for sample in tqdm(batches, desc=subset, unit="batch", disable=not options.progress):
        task.valid_step(utils.move_to_cuda(sample) if use_cuda else sample, model, criterion)
    return task.collected()


def load_classifier(checkpoint: Path) -> Tuple[Any, Any, Any]:
    """Model and criterion, in evaluation mode, and task of a checkpoint.

    Raises:
        UserError: no such file, not a checkpoint, or not of a task with labels.
        SystemExit: its parameters are not those of its config.
    """
    import fairseq_signals_ext

    fairseq_signals_ext.register()
    from fairseq.checkpoint_utils import load_checkpoint_to_cpu, load_model_ensemble_and_task

    name = read_checkpoint(checkpoint).task_config.get("_name")
    if KINDS_BY_TASK.get(str(name), "pretraining") == "pretraining":
        raise UserError(f"{checkpoint}: is of task {name}, which predicts no labels; fine-tune it first")
    state = load_checkpoint_to_cpu(str(checkpoint))
    if state["cfg"]["criterion"].get("report_cinc_score"):
        state["cfg"]["criterion"]["report_cinc_score"] = False  # its file need not be here
    (model,), cfg, task = load_model_ensemble_and_task([str(checkpoint)], state=state)
    return model.eval(), task.build_criterion(cfg.criterion).eval(), task
