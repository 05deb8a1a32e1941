"""What fairseq's own way of validating says of a subset: its task, data set, batches and criterion."""

from fairseq_signals_ext.evaluation.predictions import Predictions


def validated(checkpoint, data, subset, label_file=None, batch_size=64) -> Predictions:
    """Scores and targets of all segments, by the model's own forward."""
    import fairseq_signals_ext

    fairseq_signals_ext.register()
    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    (model,), cfg, task = load_model_ensemble_and_task([str(checkpoint)])
    model, criterion = model.eval(), task.build_criterion(cfg.criterion).eval()
    task.cfg.data = str(data)
    task.cfg.label_file = None if label_file is None else str(label_file)
    task.load_dataset(subset)
    batches = task.get_batch_iterator(dataset=task.dataset(subset), max_sentences=batch_size, num_workers=0)
    for sample in batches.next_epoch_itr(shuffle=False):
        task.valid_step(sample, model, criterion)
    return task.collected()
