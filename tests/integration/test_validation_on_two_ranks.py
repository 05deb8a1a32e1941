"""Validation on two ranks logs what one rank logs, and picks the same checkpoint."""

import pytest
from fine_tuning import finetune_command, write_labelled, write_pretrained
from running import logged, one_of_two, start_rank, wait_for

METRICS = ("auroc", "auprc", "segment_auroc", "segment_auprc", "loss", "accuracy", "best_auprc")
OPTIONS = [
    "++optimization.max_epoch=3",
    "++model.activation_dropout=0",
    "++dataset.batch_size=3",
    "++criterion.per_label=true",
]


def start(data, out, pretrained, *overrides):
    out.mkdir()
    return start_rank(finetune_command(data, out, pretrained, *OPTIONS, *overrides)[1:], out / "gradients.pt")


def log_of(process, out):
    wait_for(process)
    return (out / "hydra_train.log").read_text()


@pytest.mark.slow
def test_two_ranks_log_what_one_rank_logs(tmp_path):
    data = write_labelled(tmp_path / "data")
    # 15 segments in batches of 3: with two ranks one of them is given a batch twice
    lines = (data / "valid.tsv").read_text().splitlines()[:7]
    (data / "valid.tsv").write_text("\n".join(lines) + "\n")
    pretrained = write_pretrained(data, tmp_path / "pretrained")
    one = tmp_path / "one"
    expected = log_of(start(data, one, pretrained, "++optimization.update_freq=[2]"), one)
    outs = [tmp_path / "rank0", tmp_path / "rank1"]
    meeting = tmp_path / "meeting"
    ranks = [start(data, out, pretrained, *one_of_two(rank, meeting)) for rank, out in enumerate(outs)]
    logs = [log_of(process, out) for process, out in zip(ranks, outs)]
    for metric in METRICS:
        values = logged(expected, f"valid_{metric}")
        assert len(values) == (2 if metric.startswith("best") else 3), metric
        assert logged(logs[0], f"valid_{metric}") == pytest.approx(values, abs=2e-5), metric
