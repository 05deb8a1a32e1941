"""The commands and code of docs/ run as written, and what the pages name exists."""

import dataclasses
import json
import re
import runpy
import shutil

import pytest
import setuptools
from snippets import DOCS, PAGES, ROOT, Reader, blocks

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in [README, CONTRIBUTING, *PAGES]}
ALL = "\n".join(TEXTS.values())
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# pages whose blocks run on what the README's commands left
AFTER_README = ["data", "pretraining", "fine_tuning", "evaluation", "using_models", "explaining", "export"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What the six commands of the README left."""
    reader = Reader(tmp_path_factory.mktemp("trained") / "reader")
    (training,) = [block for block in blocks(README) if "fairseq-hydra-train" in block[1]]
    reader.run(*training)
    return reader.folder


@pytest.fixture()
def reader(trained, tmp_path):
    """A copy of that."""
    left_out = shutil.ignore_patterns("evaluation")  # a page may make it again
    shutil.copytree(trained, tmp_path / "reader", symlinks=True, ignore=left_out)
    return Reader(tmp_path / "reader")


def test_each_page_is_run_here():
    with_blocks = {page.stem for page in PAGES if blocks(page)}
    assert with_blocks == {*AFTER_README, "ecg_fm_files", "labels_from_reports"}


@pytest.mark.slow
@pytest.mark.parametrize("page", ["pretraining", "fine_tuning", "evaluation", "explaining"])
def test_commands(page, reader):
    reader.follow(DOCS / f"{page}.md")


@pytest.mark.slow
def test_data(reader, ecg_data):
    (reader.folder / "challenge-2021").mkdir()
    (reader.folder / "challenge-2021" / "training").symlink_to(ecg_data / "cinc2021")
    (reader.folder / "ptb-xl").symlink_to(ecg_data / "ptbxl")
    (reader.folder / "ecg.dcm").symlink_to(ecg_data / "formats" / "dicom_12lead_1000hz.dcm")
    shutil.rmtree(reader.folder / "data")
    first, both, reading = blocks(DOCS / "data.md")
    reader.run(*first)
    # of the copy of PTB-XL most waveforms are absent
    reader.run(
        "bash", both[1].replace("prepare ptbxl ptb-xl --out both", "prepare ptbxl ptb-xl --out both || test $? = 1")
    )
    assert reader.run(*reading).strip() == "(12, 10000) 1000.0 ('RITMO SINUSALE', 'ECG NORMALE')"
    for path in ("splits/main/train_10.tsv", "labels/challenge/y.npy", "verify.html"):
        assert (reader.folder / "both" / path).stat().st_size > 0


@pytest.mark.slow
def test_using_models(reader):
    printed = reader.follow(DOCS / "using_models.md")
    assert printed[1].endswith("(32,)\n") and printed[2].endswith("(2, 32)\n")
    for name in ("reports/one.html", "ecg.svg", "mine.html"):
        assert (reader.folder / name).stat().st_size > 10_000


@pytest.mark.slow
def test_export(reader):
    printed = reader.follow(DOCS / "export.md")
    assert re.search(r"largest difference of logits: \d\.\de-0[5-9]", printed[0])
    assert printed[1].endswith("(32,)\n")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks(path, reader):
    """Their code runs on other data."""
    label = "fairseq-signals-ext label data --name rhythm --codes cinc2021 --min-count 5"
    places = {"simulated": "path/to/ecgs", "data": "data", "finetune": "finetuned", "pretrain": "pretrained"}
    demo = reader.folder / "demo"
    demo.mkdir()
    for name, here in places.items():
        (demo / name).symlink_to(reader.folder / here)
    reader.run("bash", label)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code = code.replace("%matplotlib inline", "").replace("../../runs/demo", str(demo))
    reader.run("python", code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_executed_and_small(path):
    text = path.read_text(encoding="utf-8")
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "execute_result" in kinds and "error" not in kinds
    assert len(text) < 300_000 and "site-packages" not in text


def test_files_of_ecg_fm(golden_folder, tmp_path):
    reader = Reader(tmp_path / "reader")
    for name, here in (
        ("mimic_iv_ecg_finetuned.pt", "tiny_finetuned.pt"),
        ("mimic_iv_ecg_physionet_pretrained.pt", "tiny_pretrained.pt"),
        ("mimic_iv_ecg_physionet_pretrained.yaml", "tiny_pretrained.yaml"),
    ):
        (reader.folder / name).symlink_to(golden_folder / here)
    printed = reader.follow(DOCS / "ecg_fm_files.md", before="import torch\nsource = torch.zeros(2, 12, 2500)\n")
    assert printed[1].endswith("([2, 156, 64])\n")
    assert "model:" in (reader.folder / "ours.yaml").read_text()


def test_labels_from_reports(tmp_path):
    (told, _) = Reader(tmp_path / "reader").follow(DOCS / "labels_from_reports.md")
    assert re.search(r"^Left bundle branch block +absent +0.00 +No LBBB$", told, re.M)


def test_options_exist(registered):
    from fairseq_signals_ext.criterions.binary_cross_entropy_with_logits import BinaryCrossEntropyWithLogitsConfig
    from fairseq_signals_ext.criterions.data2vec_with_cmsc import Data2VecWithCmscConfig
    from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifierConfig
    from fairseq_signals_ext.models.ecg_cpc import EcgCpcConfig
    from fairseq_signals_ext.models.ecg_data2vec import EcgData2VecConfig
    from fairseq_signals_ext.models.ecg_jepa import EcgJepaConfig
    from fairseq_signals_ext.tasks.ecg_classification import EcgClassificationConfig

    configs = {
        "task": [EcgClassificationConfig],
        "model": [EcgCpcConfig, EcgData2VecConfig, EcgJepaConfig, EcgTransformerClassifierConfig],
        "criterion": [Data2VecWithCmscConfig, BinaryCrossEntropyWithLogitsConfig],
    }
    known = {
        kind: {"_name"}.union(*({field.name for field in dataclasses.fields(config)} for config in several))
        for kind, several in configs.items()
    }
    texts = "\n".join(
        TEXTS[f"{name}.md"] for name in ("README", "pretraining", "fine_tuning", "ecg_fm_files", "scaling")
    )
    named = re.findall(r"\b(task|model|criterion)\.(?!onnx|pt|safetensors)(\w+)\b(?!\()", texts)
    assert len(named) > 40
    assert [f"{kind}.{name}" for kind, name in named if name not in known[kind]] == []
    page = TEXTS["pretraining.md"]
    table = page[page.index("| option of the task") : page.index("### Scale of the input")]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    options = re.findall(r"`([a-z_]+)`", "".join(rows))
    assert len(options) > 8 and set(options) <= known["task"]


def test_extras_exist(monkeypatch):
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "setup.py"))
    named = re.findall(r"(?:'\.|fairseq-signals-ext)\[([\w,]+)\]", ALL)
    named += [
        name
        for line in re.findall(r"extras? ((?:`[\w,]+`(?:, | and )?)+)", ALL)
        for name in re.findall(r"`([\w,]+)`", line)
    ]
    assert len(named) > 10
    assert {name for names in named for name in names.split(",")} <= {*given["extras_require"]}


def test_named_files_and_targets_exist():
    for path in re.findall(r"(?:manifests|examples|benchmarks|docs|tests)/[\w/]+(?:\.\w+)?", ALL):
        assert (ROOT / path).exists(), path
    targets = re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", ALL, re.M)
    makefile = (ROOT / "Makefile").read_text()
    assert len(targets) > 8
    for target in {one or other for one, other in targets}:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_each_result_is_on_a_page():
    included = re.findall(r'^--8<-- "benchmarks/results/(\w+)\.md"$', ALL, re.M)
    assert sorted(included) == sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.md"))


def test_what_is_included_is_linked_as_well():
    """GitHub does not show what is included."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r'^--8<-- "(benchmarks/results/\w+\.md)"$', text, re.M):
            assert f"](../{path})" in text, path


def test_each_page_begins_with_what_it_is_for():
    for page in PAGES:
        title, _, first = page.read_text(encoding="utf-8").split("\n", 2)
        assert title.startswith("# ") and first and not first.startswith(("#", "`", "|")), page
