"""Running the real commands as a user would, at reduced size."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import made_up_checkpoints
import pytest
from omegaconf import OmegaConf

from fairseq_signals_ext import configs_dir

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(configs_dir("pretraining"))
BIN = Path(sys.executable).parent


def _quoted(value: object) -> str:
    # hydra takes brackets without quotes for a list
    return f"'{value.replace(' ', '')}'" if isinstance(value, str) else str(value)


# overrides that make any of the configs a matter of seconds
_MODEL = {**made_up_checkpoints.SMALL, "encoder_layers": 1, "final_dim": 16, "latent_vars": 16, "num_negatives": 10}
SMALL = [
    *(f"++model.{option}={_quoted(value)}" for option, value in _MODEL.items()),
    "++dataset.batch_size=4",
    "++dataset.num_workers=0",
    "++distributed_training.distributed_world_size=1",
    "++common.cpu=true",
]

_FAST = OmegaConf.load(CONFIGS / "ecg_fm_fast.yaml")
# what that switches on, apart from compiling
FAST = [
    f"optimizer._name={_FAST.optimizer._name}",
    *(f"++model.{name}={str(value).lower()}" for name, value in _FAST.model.items() if name != "compile"),
]


# of warnings that a training does not show
HIDDEN = ("torch.nn.utils.weight_norm", "pin_memory", "torch.cuda.amp.autocast")


def user_dir() -> str:
    """What `fairseq-signals-ext user-dir` prints."""
    return subprocess.run(
        [BIN / "fairseq-signals-ext", "user-dir"], capture_output=True, text=True, check=True
    ).stdout.strip()


def train_command(data: Path, out: Path, *overrides: str, config: str = "tiny", configs: Path = CONFIGS) -> List[str]:
    """`fairseq-hydra-train` on the manifests in `data`, leaving everything under `out`."""
    return [
        str(BIN / "fairseq-hydra-train"),
        "--config-dir",
        str(configs),
        "--config-name",
        config,
        f"task.data={data}",
        f"common.user_dir={user_dir()}",
        f"hydra.run.dir={out}",
        f"checkpoint.save_dir={out / 'checkpoints'}",
        *overrides,
    ]


def run(command: List[str], **kwargs: Any) -> "subprocess.CompletedProcess[str]":
    """Run to the end; output as text."""
    environment = _environment()
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=540, env=environment, **kwargs)


def run_measured(command: List[str]) -> "Tuple[subprocess.CompletedProcess[str], int]":
    """As `run`, with the most memory (kB) that the command, or a process that it waited for, took."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(["timeout", "540", *command], stdout=out, stderr=errors, env=_environment())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [file.read() for file in (out, errors) if file.seek(0) == 0]
    return subprocess.CompletedProcess(command, process.returncode, *texts), usage.ru_maxrss


def _environment() -> Dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "2"}


def script(name: str, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """Run a script of this repository, such as `manifests/prepare.py`, to the end."""
    return run([sys.executable, str(ROOT / name), *map(str, arguments)])


def train(data: Path, out: Path, *overrides: str, config: str = "tiny", configs: Path = CONFIGS) -> str:
    """Train to the end and return the log."""
    done = run(train_command(data, out, *overrides, config=config, configs=configs))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not any(one in done.stderr for one in HIDDEN), done.stderr[-3000:]
    return (out / "hydra_train.log").read_text()


def weights(checkpoint: Path) -> Dict[str, Any]:
    """The parameters in a checkpoint."""
    import torch

    return torch.load(checkpoint, weights_only=True)["model"]


def logged(log: str, key: str) -> List[float]:
    """All values of a key in fairseq's log, in order."""
    return [float(value) for value in re.findall(rf'"{key}": "?([-\d.e]+)"?[,}}]', log)]


def error_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a user sees; fails if there is a traceback or no failure."""
    assert done.returncode not in (0, None), done.stdout[-2000:]
    text = done.stdout + done.stderr
    assert "Traceback" not in text, text[-3000:]
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text[-3000:]
    return lines[0]


def mistake_of(run: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The one line of a user's mistake, where a command runs in this process."""
    with pytest.raises(SystemExit) as error:
        run(*arguments, **options)
    message = error.value.code
    assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message
    return message


def start_rank(arguments: List[str], gradients: Path) -> "subprocess.Popen[str]":
    """Start `fairseq-hydra-train` with these arguments on one core, as a rank or alone; see `rank.py`."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "rank.py"), str(gradients), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for(process: "subprocess.Popen[str]") -> str:
    """What it printed; fails if it did."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def one_of_two(rank: int, meeting: Path) -> List[str]:
    """Options of a rank of two, without GPUs."""
    return [
        "++distributed_training.distributed_world_size=2",
        "++distributed_training.ddp_backend=legacy_ddp",
        "++distributed_training.distributed_backend=gloo",
        "++distributed_training.distributed_no_spawn=true",
        f"++distributed_training.distributed_init_method=file://{meeting}",
        f"++distributed_training.distributed_rank={rank}",
    ]
