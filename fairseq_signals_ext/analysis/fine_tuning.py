"""Run the fine-tunings of an experiment, each once and with fairseq's own command, and compute their predictions."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np

import fairseq_signals_ext
from fairseq_signals_ext.common import processes
from fairseq_signals_ext.common.errors import MissingPackageError, UserError, how_to_install
from fairseq_signals_ext.common.files import atomic
from fairseq_signals_ext.common.hints import did_you_mean
from fairseq_signals_ext.data.label_table import label_files
from fairseq_signals_ext.data.manifest import find_manifests
from fairseq_signals_ext.evaluation.predictions import Predictions, to_recordings

logger = logging.getLogger(__name__)

_ARRAYS = ("scores", "targets", "idx", "patient")
_PIECE = 2**24
# messages of hydra and fairseq from before they import our code -> clearer messages
_KNOWN_ERRORS = (
    (
        r"world size is (\d+) but have (\d+) available devices",
        "distributed_training.distributed_world_size={0}, but this machine has {1} GPUs; set it to their number, or "
        "to 1 with common.cpu=true",
    ),
    (
        r"Could not override '([^']+)'",
        "{0}: the config has no such option; correct its name, or write ++{0}=VALUE for one that the config "
        "does not name",
    ),
)


@dataclass(frozen=True)
class FineTuning:
    """One fine-tuning of an experiment.

    Attributes:
        config_dir, config_name: of hydra, such as `configs_dir("fine_tuning")` and `tiny`.
        data: folder with the manifests.
        train_subset: the manifest to train on, such as `train_5`.
        label_file: labels.
        pretrained: checkpoint of the encoder.
        random_start: use only its architecture, with random weights.
        seed: of fairseq.
        out: folder of the run.
        overrides: further options of hydra, which override the above.
    """

    config_dir: Path
    config_name: str
    data: Path
    train_subset: str
    label_file: Path
    pretrained: Path
    random_start: bool
    seed: int
    out: Path
    overrides: Tuple[str, ...] = ()

    def command(self) -> List[str]:
        """The command line of fairseq-hydra-train, with absolute paths."""
        return train_command(self.config_dir, self.config_name, self.out, self._options())

    def _options(self) -> List[str]:
        # published fine-tunings do not train convolutions; random convolutions must be trained for a fair comparison
        learning = ["++model.feature_grad_mult=1.0"] if self.random_start else []
        return [
            as_override("task.data", self.data.resolve()),
            as_override("task.label_file", self.label_file.resolve()),
            as_override("model.model_path", self.pretrained.resolve()),
            f"++model.no_pretrained_weights={str(self.random_start).lower()}",
            *learning,
            as_override("dataset.train_subset", self.train_subset),
            as_override("dataset.valid_subset", "valid"),
            f"common.seed={self.seed}",
            *self.overrides,
        ]

    def run(self) -> None:
        """Train to the end, unless that is already done, see `run_once`.

        Raises:
            UserError: the training fails, an override cannot be read, or the config, a manifest, the labels or the
                pretrained checkpoint are missing.
        """
        run_once(self.command(), self.out, self.inputs())

    def inputs(self) -> List[Path]:
        """Files that change the result: configs, manifests (also the validation manifest, which chooses the best
        checkpoint), labels and their names, the pretrained checkpoint, and files named in options, such as weights.
        """
        _check_config(self.config_dir, self.config_name)
        values = _read_options(self._options())
        subsets = [subset for part in ("train", "valid") for subset in values[f"dataset.{part}_subset"].split(",")]
        manifests = [path for subset in subsets for path in find_manifests(values["task.data"], subset)]
        named = [Path(value) for value in values.values() if os.path.isfile(value)]
        configs = sorted(self.config_dir.rglob("*.yaml"))
        labels = _label_files(Path(values["task.label_file"]))
        return [*configs, *manifests, *labels, Path(values["model.model_path"]), *named]

    @property
    def labels(self) -> Path:
        """The label file `y.npy`."""
        return label_files(self.label_file)[0]

    @property
    def checkpoint(self) -> Path:
        """The best checkpoint on the validation set."""
        return self.out / "checkpoints" / "checkpoint_best.pt"


def _label_files(label_file: Path) -> List[Path]:
    """The `y.npy`, and the `label_def.csv` in its folder if there is one."""
    values, definition = label_files(label_file)
    return [values, definition] if definition.is_file() else [values]


def _read_options(options: Sequence[str]) -> Dict[str, str]:
    """Values set by options for hydra, as text; the last one of a key counts."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(options))
    except HydraException as error:
        raise UserError(f"option for hydra: {str(error).splitlines()[0]}; give KEY=VALUE") from None
    values = {override.key_or_group: override.value() for override in parsed}
    return {key: value for key, value in values.items() if isinstance(value, str)}


def as_override(key: str, value: object) -> str:
    """An option for hydra with a quoted value, such as a path with spaces or commas."""
    text = str(value).replace("'", "\\'")
    return f"{key}='{text}'"


def train_command(config_dir: Path, config_name: str, out: Path, options: Iterable[str]) -> List[str]:
    """A command line of fairseq-hydra-train that writes everything to `out`.

    Raises:
        MissingPackageError: fairseq is not installed.
    """
    beside = Path(sys.executable).with_name("fairseq-hydra-train")
    program = str(beside) if beside.is_file() else shutil.which("fairseq-hydra-train")
    if program is None:
        raise MissingPackageError(str(how_to_install("fairseq")))
    out = out.resolve()
    places = {"common.user_dir": fairseq_signals_ext.user_dir(), "hydra.run.dir": out}
    places["checkpoint.save_dir"] = out / "checkpoints"
    given = [as_override(key, path) for key, path in places.items()]
    return [program, "--config-dir", str(config_dir.resolve()), "--config-name", config_name, *given, *options]


def _check_config(folder: Path, name: str) -> None:
    """Check that a config exists, because hydra's message about a missing one is very long."""
    if (folder / f"{name}.yaml").is_file():
        return
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if not names:
        raise UserError(f"{folder}: no configs there; give the folder that has {name}.yaml")
    raise UserError(f"{folder}: has no config {name}; {did_you_mean(name, names, 'it has ' + ', '.join(names))}")


def run_once(command: Sequence[str], out: Path, inputs: Iterable[Path] = ()) -> None:
    """Run a training to its end; a finished one is not run again, and an interrupted one continues.

    Writes `log.txt`, with all printed text, and `run.json`: the command, checksums of its inputs, and whether it is
    finished. If the command or the content of an input has changed since, everything in `out` is removed first.

    Args:
        command: a command that keeps its checkpoints in `out`, and continues from them.
        inputs: files that change the result.

    Raises:
        UserError: the command fails, an input is missing, or `out` contains other files.
    """
    wanted, record = {"command": list(command), "inputs": _checksums(inputs)}, out / "run.json"
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    done = found.pop("done", False)
    if found != wanted:
        _clear(out, ours=bool(found))
        _write_json(record, {**wanted, "done": False})
    elif done:
        return
    log = out / "log.txt"
    with open(log, "ab") as file:
        start = file.tell()
        status = processes.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        output = log.read_bytes()[start:].decode(errors="replace")
        raise UserError(f"{log}: the training ended with status {status}: {_reason(output)}")
    _write_json(record, {**wanted, "done": True})


def _checksums(paths: Iterable[Path]) -> Dict[str, int]:
    """CRC-32 of the content of files."""
    found = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file; correct the path, or create it first")
        checksum = 0
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                checksum = zlib.crc32(piece, checksum)
        found[str(path.resolve())] = checksum
    return found


def _clear(out: Path, ours: bool) -> None:
    if out.exists() and any(out.iterdir()):
        if not ours:
            raise UserError(f"{out}: contains files, but not of a run started here; give another folder")
        logger.warning(f"{out}: was run with another command or other inputs; it is run again")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _reason(output: str) -> str:
    """The last error of this package in a log, otherwise a known error, otherwise the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
    if not errors:
        errors = [
            told.format(*found.groups()) for pattern, told in _KNOWN_ERRORS for found in re.finditer(pattern, output)
        ]
    return (errors or lines or ["it printed nothing"])[-1][:300]


def scores_of(run: FineTuning, subset: str) -> Predictions:
    """Scores of a run's best checkpoint for a subset's recordings (aggregated by its option), sorted by `idx`.

    They are kept in `scores_SUBSET.npz` of the run, for as long as checkpoint, manifest and labels stay the same.

    Raises:
        UserError, SystemExit: see `predict_subset`.
    """
    from fairseq_signals_ext.inference.loading import load_model
    from fairseq_signals_ext.inference.subsets import Subset, predict_subset

    source = json.dumps(_checksums([run.checkpoint, *find_manifests(run.data, subset), *_label_files(run.label_file)]))
    kept = run.out / f"scores_{subset}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as file:
            if str(file["source"]) == source:
                arrays = {name: file[name] for name in _ARRAYS}
                names = tuple(file["label_names"].tolist())
                return Predictions(**arrays, label_names=names, kind=str(file["kind"]))
    model = load_model(run.checkpoint, device="auto")
    found = to_recordings(predict_subset(model, Subset(model, run.data, subset, str(run.labels))))
    content: Dict[str, Any] = {name: getattr(found, name) for name in _ARRAYS}
    content.update(source=np.array(source), label_names=np.array(found.label_names, str), kind=np.array(found.kind))
    with atomic(kept) as temporary, open(temporary, "wb") as file:
        np.savez(file, **content)
    return found
