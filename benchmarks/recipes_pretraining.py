"""The recipes that `recipes.py` compares, and their pretrainings, several at the same time."""

import json
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence

import numpy as np
from tqdm import tqdm

from fairseq_signals_ext import configs_dir
from fairseq_signals_ext.analysis.fine_tuning import as_override, train_command
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.common.files import safe_name

RATES = (0.0005, 0.001, 0.002)
_WARMUP = 0.1  # of the updates
PARTS = 4  # of a pretraining, each of which leaves a checkpoint
_TRIED = (10, 40)  # updates, of which the difference tells what one takes
_QUIET = ("dataset.num_workers=0", "++dataset.disable_validation=true", "checkpoint.keep_interval_updates=-1")


class Recipe(NamedTuple):
    """Settings of a pretraining: a config of configs/pretraining, and overrides."""

    config: str
    overrides: Sequence[str] = ()


# as many layers as ECG-FM's
_TWO_LAYERS = ("model.encoder_layers=2",)
# ECG-FM's contrast beside the regression, with the sizes that `tiny` gives it
_BOTH = (
    *("++model.loss=both", "++model.fused_contrast=true", "++model.quantize_targets=true", "++model.final_dim=64"),
    *("++model.latent_vars=64", "++model.num_negatives=50", "++criterion.loss_weights=[0.1,10]"),
    "criterion.regression_weight=0.1",
)
RECIPES: Dict[str, Recipe] = {
    "ECG-FM": Recipe("tiny", ("task.standardize=lead",)),
    "ECG-FM, fixed input": Recipe("tiny", ("task.standardize=fixed",)),
    "data2vec": Recipe("ecg_data2vec_tiny", ("task.standardize=lead", *_TWO_LAYERS)),
    "data2vec beside contrast": Recipe("ecg_data2vec_tiny", ("task.standardize=lead", *_TWO_LAYERS, *_BOTH)),
    "JEPA": Recipe("ecg_jepa_tiny", ("task.standardize=fixed",)),
    "CPC": Recipe("ecg_cpc_tiny", ("task.standardize=lead",)),
}


class Run(NamedTuple):
    """One pretraining."""

    recipe: str
    rate: float
    seed: int

    def __str__(self) -> str:
        return f"{self.recipe}, rate {self.rate:g}, seed {self.seed}"

    def folder(self, work: Path) -> Path:
        """Return its output folder."""
        return work / "runs" / f"{safe_name(self.recipe)}-rate{self.rate:g}-seed{self.seed}"

    def checkpoint(self, work: Path, parts: int = PARTS) -> Path:
        """Return the checkpoint after this number of parts of the pretraining.

        Raises:
            UserError: there is none.
        """
        folder = self.folder(work) / "checkpoints"
        if parts == PARTS:
            return folder / "checkpoint_last.pt"
        # of an epoch and a number of updates
        saved = sorted(folder.glob("checkpoint_*_*.pt"), key=lambda path: int(path.stem.split("_")[2]))
        if len(saved) < parts:
            raise UserError(f"{folder}: has {len(saved)} checkpoints, {parts} are needed; use another --work")
        return saved[parts - 1]

    def early(self, parts: int) -> str:
        """Return the name of the checkpoint after this number of parts."""
        return f"{self}, {parts} of {PARTS}"


def train(recipe: Recipe, data: Path, out: Path, updates: int, rate: float, seed: int) -> float:
    """Pretrain; returns processor seconds."""
    overrides = [
        as_override("task.data", data.resolve()),
        f"optimization.max_update={updates}",
        f"checkpoint.save_interval_updates={max(1, updates // PARTS)}",
        f"optimization.lr=[{rate}]",
        f"++lr_scheduler.warmup_updates={max(1, round(_WARMUP * updates))}",
        f"common.seed={seed}",
        *_QUIET,
        *recipe.overrides,
    ]
    command = train_command(Path(configs_dir("pretraining")), recipe.config, out, overrides)
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "output.txt", "w", encoding="utf-8") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
        # of this process alone, as others run beside it
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UserError(f"{out}: the training failed: {(out / 'output.txt').read_text(encoding='utf-8')[-500:]}")
    return used.ru_utime + used.ru_stime


def updates_in(recipe: Recipe, data: Path, seconds: float, jobs: int) -> int:
    """Return the number of updates of a recipe in these processor seconds, without the start of the program.

    Measured with `jobs` trainings at the same time, as an update takes longer beside others.
    """
    few, more = _TRIED
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:

        def mean_seconds(updates: int) -> float:
            runs = [Path(folder) / f"{updates}-{number}" for number in range(jobs)]
            return float(np.mean([*pool.map(lambda out: train(recipe, data, out, updates, RATES[0], 1), runs)]))

        took = mean_seconds(more) - mean_seconds(few)
    return max(more, round(seconds * (more - few) / max(took, 1e-3)))


class Pretrainings:
    """All trainings of a comparison, several at the same time; finished ones are not repeated."""

    def __init__(self, work: Path, seconds: float, jobs: int):
        self.work, self.seconds, self.jobs = work, seconds, jobs
        self._path = work / "pretrained.json"
        self.facts: Dict[str, Dict[str, Any]] = {}
        if self._path.is_file():
            self.facts = json.loads(self._path.read_text(encoding="utf-8"))
        if any(one["seconds"] != seconds for one in self.facts.values()):
            raise UserError(f"{self._path}: is of other --seconds; use another --work")

    def measure_updates(self) -> None:
        """Measure the number of updates of each recipe."""
        for name, recipe in tqdm(RECIPES.items(), desc="updates per second", leave=False):
            if name not in self.facts:
                updates = updates_in(recipe, self.work / "pretraining", self.seconds, self.jobs)
                self.facts[name] = {"seconds": self.seconds, "updates": updates, "took": {}}
                self._save()

    def run(self, wanted: Sequence[Run], what: str) -> None:
        """Make the checkpoints of these runs."""
        missing = [run for run in wanted if str(run) not in self.facts[run.recipe]["took"]]
        with ThreadPoolExecutor(self.jobs) as pool:
            took = pool.map(self._train, missing)
            for run, seconds in tqdm(zip(missing, took), total=len(missing), desc=what, leave=False):
                self.facts[run.recipe]["took"][str(run)] = seconds
                self._save()

    def _train(self, run: Run) -> float:
        updates = self.facts[run.recipe]["updates"]
        out = run.folder(self.work)
        return train(RECIPES[run.recipe], self.work / "pretraining", out, updates, run.rate, run.seed)

    def _save(self) -> None:
        self._path.write_text(json.dumps(self.facts, indent=1), encoding="utf-8")
