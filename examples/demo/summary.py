"""Print what the demo found, and where everything is.

python examples/demo/summary.py runs/demo
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import List, Optional

from fairseq_signals_ext.common.errors import exits_on_user_error
from fairseq_signals_ext.evaluation.text import with_interval
from fairseq_signals_ext.evaluation.training_curve import read_log

# what a step leaves, and what that is; those of steps that were left out are not there
FILES = {
    "data/verify.html": "the data, checked and drawn",
    "pretrain/checkpoints/checkpoint_best.pt": "the pretrained model",
    "loss.png": "its loss curve",
    "finetune/checkpoints/checkpoint_best.pt": "the fine-tuned model",
    "evaluation/per_label.csv": "its metrics, with pictures beside them",
    "report/*.html": "the report on one ECG",
    "demo.log": "all that the commands printed",
}


def pretraining(folder: Path) -> str:
    """Return a sentence about the first and the last logged loss and accuracies."""
    curves = read_log(folder).train
    loss, found, pairs = ([*curves[name].values()] for name in ("loss", "accuracy", "cmsc_accuracy"))
    return (
        f"Pretraining, {max(curves['loss'])} updates: loss {loss[0]:.1f} -> {loss[-1]:.1f} bits, masked frames found "
        f"{found[0]:.0%} -> {found[-1]:.0%}, pairs of a patient {pairs[0]:.0%} -> {pairs[-1]:.0%}"
    )


def evaluation(file: Path) -> str:
    """Return a sentence about the macro AUROC of the test set."""
    facts = json.loads(file.read_text(encoding="utf-8"))
    macro = {name: math.nan if value is None else value for name, value in facts["recordings"]["macro"].items()}
    return f"Fine-tuned, on the test set: macro AUROC {with_interval(macro, 'auroc')}"


@exits_on_user_error
def main(argv: Optional[List[str]] = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="DIR", type=Path, help="folder of the demo")
    out = parser.parse_args(argv).out
    print(pretraining(out / "pretrain"))
    if (out / "evaluation" / "metrics.json").is_file():
        print(evaluation(out / "evaluation" / "metrics.json"))
    print(f"In {out}:")
    for pattern, what in FILES.items():
        for path in sorted(out.glob(pattern)):
            print(f"  {str(path.relative_to(out)):<42} {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
