"""Fine-tuning with the real command, on small made-up data."""

from pathlib import Path
from typing import Any, List

import numpy as np
from made_up import write_label_file, write_shards
from running import BIN, SMALL, run, train, train_command, user_dir

from fairseq_signals_ext import configs_dir

CONFIGS = Path(configs_dir("fine_tuning"))
# what is left of SMALL when the pretrained file gives the architecture
SMALL_RUN = [option for option in SMALL if not option.startswith("++model.")]


def write_labelled(folder: Path, recordings: int = 16, labels: int = 3) -> Path:
    """`train`, `valid` and `test` manifests of the same recordings, and labels in `labels/`, some not known."""
    for split in ("train", "valid", "test"):
        write_shards(folder, [5000, 7600] * (recordings // 2), split=split)
    values = np.random.default_rng(1).integers(0, 2, (recordings, labels)).astype(float)
    values[[0, 5], [1, 2]] = np.nan
    write_label_file(folder / "labels", values)
    return folder


def write_pretrained(data: Path, out: Path) -> Path:
    """A checkpoint of `wav2vec2_cmsc` after one update on `data`."""
    train(data, out, *SMALL, "++optimization.max_update=1", "++dataset.disable_validation=true")
    return out / "checkpoints" / "checkpoint_last.pt"


def finetune_command(data: Path, out: Path, pretrained: Any, *overrides: str, config: str = "tiny") -> List[str]:
    """`fairseq-hydra-train` with a config of `configs/fine_tuning`."""
    options = [f"task.label_file={data / 'labels'}", f"model.model_path={pretrained}", *SMALL_RUN, *overrides]
    return train_command(data, out, *options, config=config, configs=CONFIGS)


def finetune(data: Path, out: Path, pretrained: Any, *overrides: str, config: str = "tiny") -> str:
    """Fine-tune to the end and return the log."""
    done = run(finetune_command(data, out, pretrained, *overrides, config=config))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return (out / "hydra_train.log").read_text()


def validate_command(
    data: Path, checkpoint: Path, subset: str, *options: Any, task: str = "ecg_classification"
) -> List[str]:
    """`fairseq-validate` on a subset."""
    required = ["--user-dir", user_dir(), "--task", task, "--path", checkpoint]
    more = ["--valid-subset", subset, "--batch-size", 5, "--num-workers", 0, "--cpu", "--log-format", "json"]
    return [str(part) for part in (BIN / "fairseq-validate", data, *required, *more, *options)]
