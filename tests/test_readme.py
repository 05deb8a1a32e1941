"""The README's commands run as written, and the options it names exist."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import RATE, made_up_counts
from made_up_wfdb import write_wfdb
from running import SMALL

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block_with(text):
    (block,) = (block for block in re.findall(r"```(?:bash|python)\n(.*?)```", README, re.S) if text in block)
    return block


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    for number in range(20):
        counts = made_up_counts(np.random.default_rng(number), 10 * RATE)
        write_wfdb(folder / f"rec{number:02d}", counts, comments=[f"Dx: {(426177001, 426783006)[number % 2]}"])
    return folder


def shell(commands):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", commands]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def training(records, tmp_path_factory):
    """The folder that the first real training leaves, at reduced size."""
    tmp_path = tmp_path_factory.mktemp("training")
    commands = block_with("manifests/prepare.py wfdb")
    commands = commands[commands.index("python manifests/prepare.py") :]  # what precedes it is the set-up
    for there, here in (
        ("path/to/records", str(records)),
        ("--out data", f"--out {tmp_path}/data"),
        ("split.py data", f"split.py {tmp_path}/data"),
        ("verify.py data", f"verify.py {tmp_path}/data"),
        ("$PWD/data", f"{tmp_path}/data"),
        ("hydra.run.dir=$PWD/run", " ".join([f"hydra.run.dir={tmp_path}/run", "++optimization.max_update=2"])),
        ("curve run --out loss.png", f"curve {tmp_path}/run --out {tmp_path}/loss.png"),
    ):
        assert there in commands, there
        commands = commands.replace(there, here)
    small = " ".join(f'"{option}"' for option in [*SMALL, "++common.log_interval=1"])
    commands = commands.replace("++optimization.max_update=2", f"++optimization.max_update=2 {small}")
    done = shell(commands)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return tmp_path


def test_first_real_training(training):
    assert (training / "loss.png").stat().st_size > 10_000
    assert (training / "data" / "recordings.parquet").is_file()


def test_fine_tuning_validation_and_evaluation(training, records):
    commands = block_with("--config-name ecg_interpretation") + block_with("fairseq-validate")
    small = [option for option in SMALL if not option.startswith("++model.")]
    for there, here in (
        ("label.py data", f"label.py {training}/data"),
        ("--train-manifest data", f"--train-manifest {training}/data"),
        ("$PWD/data", f"{training}/data"),
        ("$PWD/run", f"{training}/run"),
        ("fairseq-validate data", f"fairseq-validate {training}/data"),
        ("--data data", f"--data {training}/data"),
        ("--labels data", f"--labels {training}/data"),
        ("path finetuned", f"path {training}/finetuned"),
        ("evaluate finetuned", f"evaluate {training}/finetuned"),
        ("--out evaluation", f"--out {training}/evaluation --device cpu"),
        ("--batch-size 64", "--batch-size 64 --cpu"),
        ("hydra.run.dir=$PWD/finetuned", " ".join([f"hydra.run.dir={training}/finetuned", *small])),
    ):
        assert there in commands, there
        commands = commands.replace(there, here)
    done = shell(commands.replace("++dataset", "++optimization.max_epoch=1 ++dataset", 1))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "valid on 'test' subset" in done.stdout + done.stderr
    for name in ("metrics.json", "per_label.csv", "predictions.parquet", "roc.png", "confusion.png"):
        assert (training / "evaluation" / name).stat().st_size > 0
    hand_on(training)
    ask(training, records)


def hand_on(training):
    """What the README does with the fine-tuned model next."""
    commands = block_with("--to onnx").replace(" finetuned/", f" {training}/finetuned/")
    done = shell(commands.replace("--out model", f"--out {training}/model"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert re.search(r"largest difference of logits: \d\.\de-0[5-9]", done.stdout), done.stdout
    code = block_with('load("model")').replace('load("model")', f'load("{training}/model")')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "(32,)", done.stdout + done.stderr


def ask(training, records):
    """What the README asks the fine-tuned model about ECGs."""
    commands = block_with("ext predict finetuned").replace(" finetuned/", f" {training}/finetuned/")
    for there, here in (
        ("path/to/records/one.hea", str(next(records.glob("*.hea")))),
        ("path/to/records", str(records)),
        (" data --out", f" {training}/data --out"),
        ("--index embeddings", f"--index {training}/embeddings"),
        *(
            (f"--out {name}", f"--out {training}/{name}")
            for name in ("predictions", "explanations", "embeddings", "reports")
        ),
    ):
        assert there in commands, there
        commands = commands.replace(there, here)
    done = shell(commands)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert len((training / "predictions" / "predictions.csv").read_text().splitlines()) == 1 + 20
    assert list((training / "reports").glob("*.html"))
    code = block_with("write_report(").replace(
        "checkpoint_best.pt", f"{training}/finetuned/checkpoints/checkpoint_best.pt"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=training, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.endswith("(2, 32)\n"), done.stdout + done.stderr
    assert (training / "ecg.svg").stat().st_size > 10_000 and (training / "mine.html").stat().st_size > 10_000


def test_config_of_ecg_fm(golden_folder, tmp_path):
    command = block_with("config convert").replace("--out ours.yaml", f"--out {tmp_path}/ours.yaml")
    done = shell(command.replace("mimic_iv_ecg_physionet_pretrained.yaml", str(golden_folder / "tiny_pretrained.yaml")))
    assert done.returncode == 0, done.stderr
    assert "model:" in (tmp_path / "ours.yaml").read_text()


def test_data_from_two_sources(records, ecg_data, tmp_path):
    commands = block_with("manifests/prepare.py physionet2021")
    for there, here in (
        ("challenge-2021/training", str(ecg_data / "cinc2021")),
        ("ptbxl ptb-xl --out data", f"ptbxl {ecg_data / 'ptbxl'} --out data || test $? = 1"),  # absent waveforms
        ("data/labels", f"{tmp_path}/data/labels"),
        (" data ", f" {tmp_path}/data "),
        ("verify.py data", f"verify.py {tmp_path}/data"),
    ):
        commands = commands.replace(there, here)
    done = shell(commands)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    for path in ("splits/patients/train_10.tsv", "labels/challenge/y.npy", "verify.html"):
        assert (tmp_path / "data" / path).stat().st_size > 0


def test_reading_one_file(ecg_data):
    code = block_with("read_ecg(").replace("ecg.dcm", str(ecg_data / "formats" / "dicom_12lead_1000hz.dcm"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(12, 10000) 1000.0 ('RITMO SINUSALE', 'ECG NORMALE')", done.stderr


def test_loading_a_checkpoint(golden_folder):
    code = block_with("load_model_ensemble_and_task").replace(
        "mimic_iv_ecg_physionet_pretrained.pt", str(golden_folder / "tiny_pretrained.pt")
    )
    code = f"import torch\nsource = torch.zeros(2, 12, 2500)\n{code}\nprint(tuple(features.shape))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(2, 156, 64)", done.stderr


def test_options_exist(registered):
    from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import BinaryCrossEntropyWithLogitsConfig
    from fairseq_signals_ext.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscConfig
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifierConfig
    from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config
    from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig

    configs = {
        "task": [EcgClassificationConfig],
        "model": [EcgWav2Vec2Config, EcgTransformerClassifierConfig],
        "criterion": [Wav2Vec2WithCmscConfig, BinaryCrossEntropyWithLogitsConfig],
    }
    known = {
        kind: {"_name"}.union(*({field.name for field in dataclasses.fields(config)} for config in several))
        for kind, several in configs.items()
    }
    named = re.findall(r"\b(task|model|criterion)\.(?!onnx|pt|safetensors)(\w+)\b(?!\()", README)
    assert len(named) > 8
    assert [f"{kind}.{name}" for kind, name in named if name not in known[kind]] == []
    table = README[README.index("| option of the task") : README.index("### Change the objective")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    options = re.findall(r"`([a-z_]+)`", "".join(rows))
    assert len(options) > 8 and set(options) <= known["task"]


def test_named_files_exist():
    for path in re.findall(r"(?:manifests|examples|benchmarks|docs)/[\w/]+(?:\.\w+)?", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "name",
    [
        *["preparation", "loading", "training", "training_switches", "training_switches_tiny", "fast_learning"],
        *["transfer", "bootstrap", "exporting", "inference"],
    ],
)
def test_numbers_are_those_of_the_benchmarks(name):
    assert (ROOT / "benchmarks" / "results" / f"{name}.md").read_text().strip() in README


@pytest.mark.parametrize("name", ["scaling", "many_gpus"])
def test_numbers_of_the_plan_are_those_of_the_benchmark(name):
    plan = (ROOT / "docs" / "scaling.md").read_text()
    assert (ROOT / "benchmarks" / "results" / f"{name}.md").read_text().strip() in plan
