"""Exports in each format: content, outputs, and no incomplete files."""

import csv
import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_up_checkpoints import LABELS, SAMPLES, made_up_checkpoint, saved_checkpoint

from fairseq_signals_ext.checkpoints import reading
from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.description import ModelDescription, read_description
from fairseq_signals_ext.checkpoints.reading import read_checkpoint
from fairseq_signals_ext.checkpoints.safetensors_folder import read_safetensors
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference import export as exporting
from fairseq_signals_ext.inference import export_check, export_formats
from fairseq_signals_ext.inference.export import FORMATS, export
from fairseq_signals_ext.inference.network import build_model

GOLDEN = {"tiny_finetuned": "clf_logits", "tiny_pretrained": "encoder_out"}
RUNTIMES = ("torchscript", "onnx")
# the pretrained one as ONNX: see tests/commands/test_export.py
OF_GOLDEN = [(name, to) for name in GOLDEN for to in FORMATS if (name, to) != ("tiny_pretrained", "onnx")]


@pytest.fixture(scope="module", autouse=True)
def no_collection():
    """Full collections take longer than all else here; benchmarks/exporting.py measures what they are for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)
        yield


@pytest.fixture(scope="module")
def golden(golden_folder):
    values = np.load(golden_folder / "tiny_golden.npz")
    embedding = values["encoder_out"].mean(axis=1)
    return {"source": values["source"], "clf_logits": values["clf_logits"], "encoder_out": embedding}


@pytest.fixture(scope="module")
def of_golden(golden_folder, tmp_path_factory):
    """Exports of both golden checkpoints."""
    top = tmp_path_factory.mktemp("golden")
    return {
        (name, to): export(golden_folder / f"{name}.pt", to, top / f"{name}-{to}", _labels(name))
        for name, to in OF_GOLDEN
    }


def _labels(name):
    return "ecg-fm" if name == "tiny_finetuned" else None


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A classifier of ours, and its exports."""
    top = tmp_path_factory.mktemp("small")
    path = saved_checkpoint(top / "checkpoint_best.pt", pooling="attention", layer_norm_first=True)
    return path, {to: export(path, to) for to in ("safetensors", *RUNTIMES)}


def run(result, source, padding):
    """Outputs of an export in its own runtime, without this package."""
    file = next(file for file in result.files if file.name.startswith("model."))
    if file.suffix == ".pt":
        with torch.no_grad():
            return [output.numpy() for output in torch.jit.load(file)(torch.tensor(source), torch.tensor(padding))]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    return session.run(None, {"source": source, "padding_mask": padding})


@pytest.mark.parametrize(("name", "to"), [(name, to) for name, to in OF_GOLDEN if to in RUNTIMES])
def test_golden_values(of_golden, golden, name, to):
    source = golden["source"]
    outputs = run(of_golden[name, to], source, np.zeros((8, 2500), bool))
    assert [output.shape for output in outputs] == ([(8, 17), (8, 64)] if name == "tiny_finetuned" else [(8, 64)])
    assert np.abs(outputs[0] - golden[GOLDEN[name]]).max() <= 5e-6  # 1e-4 is what an export may differ


@pytest.mark.parametrize(("name", "to"), OF_GOLDEN)
def test_differences_are_reported(of_golden, name, to):
    result = of_golden[name, to]
    assert list(result.differences) == (["logits", "embedding"] if name == "tiny_finetuned" else ["embedding"])
    assert all(0 <= difference <= 5e-6 for difference in result.differences.values())
    assert sorted(result.folder.iterdir()) == list(result.files)


@pytest.mark.parametrize("to", RUNTIMES)
def test_any_number_of_segments_with_and_without_padding(small, to):
    model = build_model(read_checkpoint(small[0]))
    for segments in (1, 2, 5):
        source = torch.randn(segments, 12, SAMPLES, generator=torch.Generator().manual_seed(segments))
        padding = torch.zeros(segments, SAMPLES, dtype=torch.bool)
        padding[-1, 260:] = segments > 1
        source = source.masked_fill(padding.unsqueeze(1), 0)
        with torch.no_grad():
            expected = model(source, padding)["out"].numpy()
        assert np.abs(run(small[1][to], source.numpy(), padding.numpy())[0] - expected).max() <= 5e-6


def test_torchscript_needs_torch_only(small):
    code = (
        "import sys, torch\n"
        "logits, embedding = torch.jit.load(sys.argv[1])(torch.zeros(3, 12, 500), torch.zeros(3, 500).bool())\n"
        "print(tuple(logits.shape), tuple(embedding.shape), 'fairseq' in sys.modules)"
    )
    path = str(small[1]["torchscript"].folder / "model.pt")
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert found.stdout == "(3, 3) (3, 32) False\n"


def test_torchscript_keeps_no_device(of_golden):
    """It was traced on a CPU, and has to run on a GPU."""
    import torch

    network = torch.jit.load(str(of_golden["tiny_finetuned", "torchscript"].folder / "model.pt"))
    code = [part.code for part in network.modules() if hasattr(part, "code")]
    assert code and not [line for text in code for line in text.splitlines() if "torch.device(" in line]


def test_onnx_file(of_golden):
    import onnx

    file = of_golden["tiny_finetuned", "onnx"].folder / "model.onnx"
    onnx.checker.check_model(str(file), full_check=True)
    model = onnx.load(file)
    assert [value.name for value in model.graph.input] == ["source", "padding_mask"]
    assert [value.name for value in model.graph.output] == ["logits", "embedding"]
    assert [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [
        "segments",
        12,
        2500,
    ]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]
    facts = {fact.key: fact.value for fact in model.metadata_props}
    assert facts["kind"] == "classification" and facts["sample_rate"] == "500"
    assert len(json.loads(facts["label_names"])) == 17 and json.loads(facts["leads"])[4] == "aVL"
    assert not any(node.metadata_props for node in model.graph.node)
    assert b"site-packages" not in file.read_bytes()


def test_large_onnx_has_its_weights_beside_it(tmp_path, small, monkeypatch):
    monkeypatch.setattr(export_formats, "_LARGEST_FILE", 1000)
    result = export(small[0], "onnx", tmp_path / "large")
    assert [file.name for file in result.files] == ["config.json", "label_def.csv", "model.onnx", "model.onnx.data"]
    source, padding = np.ones((2, 12, SAMPLES), np.float32), np.zeros((2, SAMPLES), bool)
    assert all(map(np.array_equal, run(result, source, padding), run(small[1]["onnx"], source, padding)))


def test_description_and_labels(small):
    for to in ("safetensors", *RUNTIMES):
        result = small[1][to]
        description, weights = read_description(result.folder)
        assert weights.name.startswith("model.") and result.folder.name == f"checkpoint_best-{to}"
        assert description.label_names == LABELS and description.thresholds == (0.25, 0.5, 0.75)
        assert description.provenance["checkpoint"] == "checkpoint_best.pt"
        with open(result.folder / "label_def.csv", newline="") as file:
            assert [row["name"] for row in csv.DictReader(file)] == list(LABELS)
        assert {stat.S_IMODE(file.stat().st_mode) for file in result.files} == {
            stat.S_IMODE((result.folder / "config.json").stat().st_mode)
        }


def bits(parameters):
    return {name: (value.dtype, tuple(value.shape), value.numpy().tobytes()) for name, value in parameters.items()}


def test_safetensors_hold_all_parameters_by_our_names(of_golden, golden_folder, registered):
    from fairseq.checkpoint_utils import load_model_ensemble_and_task
    from safetensors import safe_open

    for name in GOLDEN:
        (model,), _, _ = load_model_ensemble_and_task([str(golden_folder / f"{name}.pt")])
        folder = of_golden[name, "safetensors"].folder
        checkpoint = read_safetensors(folder)
        assert bits(checkpoint.parameters) == bits(model.state_dict())
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
        saved = read_checkpoint(golden_folder / f"{name}.pt")
        assert checkpoint.config["task"] == json.loads(json.dumps(saved.config["task"]))


def test_there_and_back(of_golden, golden_folder, tmp_path):
    for name in GOLDEN:
        folder = of_golden[name, "safetensors"].folder
        back = export(folder, "ecg-fm", tmp_path / name, _labels(name))
        found = read_checkpoint(back.folder / f"{name}.pt").parameters
        assert bits(_one_weight_norm(found)) == bits(
            _one_weight_norm(read_checkpoint(golden_folder / f"{name}.pt").parameters)
        )


def _one_weight_norm(parameters):
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    for old, new in names.items():
        parameters = {key.replace(new, old): value for key, value in parameters.items()}
    return parameters


def test_an_export_without_parameters_is_no_source(small, tmp_path):
    with pytest.raises(UserError, match="holds model.onnx, not the parameters"):
        export(small[1]["onnx"].folder, "safetensors", tmp_path / "none")


def test_half_precision_stays(tmp_path):
    checkpoint = made_up_checkpoint()
    halves = {name: value.half() for name, value in checkpoint.parameters.items()}
    torch.save({**checkpoint.state, "model": halves}, tmp_path / "half.pt")
    result = export(tmp_path / "half.pt", "safetensors")
    assert bits(read_safetensors(result.folder).parameters) == bits(halves)


CASES = {
    "regression": ("torchscript", "regression", {"in_d": 3}),
    "one quantizer": ("torchscript", "pretraining", {"quantize_input": True, "same_quantizer": True}),
    "one quantizer as parameters": ("safetensors", "pretraining", {"quantize_input": True, "same_quantizer": True}),
    "masks": ("safetensors", "classification", {"apply_mask": True}),
}


@pytest.mark.parametrize(("to", "kind", "options"), CASES.values(), ids=CASES.keys())
def test_other_models(tmp_path, to, kind, options):
    result = export(saved_checkpoint(tmp_path / "model.pt", kind, **options), to)
    assert max(result.differences.values()) <= 5e-6
    assert list(result.differences)[0] == {"regression": "values", "pretraining": "embedding"}.get(kind, "logits")


# TorchScript's names of classes count earlier traces of the process
@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_written_the_same_each_time_and_from_an_export_too(small, tmp_path, to):
    source = small[1]["safetensors"].folder
    again = export(source, to, tmp_path / "again")
    for first, second in zip(small[1][to].files, again.files):
        assert first.name == second.name and first.read_bytes() == second.read_bytes(), first.name


def left(folder):
    return sorted(os.listdir(folder))


def test_a_wrong_export_is_refused_and_removed(small, tmp_path, monkeypatch):
    path = shutil.copy(small[0], tmp_path / "model.pt")

    write = export_formats.write_torchscript

    def half_as_much(network, description, file):
        network.proj.weight.mul_(0.5)
        write(network, description, file)

    monkeypatch.setattr(export_formats, "write_torchscript", half_as_much)
    with pytest.raises(UserError, match=r"logits differs by .* from the model's, more than 0.0001, so nothing"):
        export(tmp_path / "model.pt", "torchscript")
    assert left(tmp_path) == [os.path.basename(path)]


def flip_a_bit(file, tensor):
    """Change the lowest bit of a tensor's first value in a file that holds it as it is in memory."""
    content, values = bytearray(file.read_bytes()), tensor.numpy().tobytes()
    assert content.count(values) == 1
    content[content.index(values)] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("to", "writer"),
    [("safetensors", (export_formats, "write_safetensors")), ("ecg-fm", (exporting, "write_ecg_fm"))],
)
def test_a_changed_parameter_is_refused(tmp_path, monkeypatch, to, writer):
    # as if it was changed before its checksum was made
    monkeypatch.setattr(reading, "what_is_wrong_with", lambda path: None)
    changed = read_checkpoint(saved_checkpoint(tmp_path / "model.pt")).parameters["proj.weight"].clone()
    write = getattr(*writer)

    def write_wrongly(*given):
        write(*given)
        flip_a_bit(given[-1], changed)

    monkeypatch.setattr(*writer, write_wrongly)
    with pytest.raises(UserError, match="parameter proj.weight is not what it was, so nothing was written"):
        export(tmp_path / "model.pt", to)
    assert left(tmp_path) == ["model.pt"]


def test_differences_find_nan():
    description = ModelDescription("pretraining", {})
    with pytest.raises(UserError, match="embedding differs by nan"):
        export_check.differences([(np.full((1, 2), np.nan),)], [(np.zeros((1, 2)),)], description)


@pytest.mark.parametrize("to", FORMATS)
def test_weights_that_are_not_numbers(tmp_path, to):
    state = torch.load(saved_checkpoint(tmp_path / "model.pt"), weights_only=True)
    state["model"]["encoder.post_extract_proj.bias"][0] = np.nan
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(UserError, match="model.pt: the model's outputs are not finite, .* before the training diverge"):
        export(tmp_path / "model.pt", to)
    assert left(tmp_path) == ["model.pt"]


def test_a_pretrained_model_has_no_labels(tmp_path):
    path = saved_checkpoint(tmp_path / "model.pt", "pretraining")
    folder = export(path, "safetensors").folder
    for source in (path, folder):
        with pytest.raises(UserError, match=f"{source}: a pretrained model has no labels; leave --labels out"):
            export(source, "torchscript", labels="ecg-fm")
    assert left(tmp_path) == ["model-safetensors", "model.pt"]


def test_folder_of_an_export_for_ecg_fm(tmp_path):
    folder = export(saved_checkpoint(tmp_path / "model.pt"), "ecg-fm", tmp_path / "there").folder
    result = export(folder, "safetensors")
    assert result.folder == tmp_path / "model-safetensors"
    expected = read_checkpoint(folder / "model.pt").parameters
    found = read_safetensors(result.folder).parameters
    assert torch.equal(found["proj.weight"], expected["proj.weight"])
    with pytest.raises(UserError, match="there: is the input"):
        export(folder, "ecg-fm", folder, overwrite=True)
    assert "model.pt" in left(folder)


@pytest.mark.parametrize("below", ["sub", "sub/deeper", "no/../sub"])
def test_the_folder_that_is_exported_stays_as_it_is(small, below):
    source = small[1]["safetensors"].folder
    before = left(source)
    with pytest.raises(UserError, match=f"{below}: is in the folder that is exported; give another"):
        export(source, "torchscript", source / below)
    assert left(source) == before


def test_a_folder_with_content_is_kept(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    for overwrite, message in ((False, "is not empty; give another"), (True, "has 'thesis.tex', which is not part")):
        with pytest.raises(UserError, match=message):
            export(small[0], "safetensors", tmp_path / "out", overwrite=overwrite)
    assert left(tmp_path / "out") == ["thesis.tex"]
    with pytest.raises(UserError, match="is a file"):
        export(small[0], "safetensors", small[0])


def test_an_export_is_replaced_as_a_whole(small, tmp_path):
    first = export(small[0], "safetensors", tmp_path / "out")
    with pytest.raises(UserError, match="is not empty"):
        export(small[0], "torchscript", tmp_path / "out")
    with pytest.raises(UserError, match="is the input"):
        export(first.folder, "onnx", first.folder, overwrite=True)
    export(small[0], "torchscript", tmp_path / "out", overwrite=True)
    assert left(tmp_path) == ["out"]
    assert left(tmp_path / "out") == ["config.json", "label_def.csv", "model.pt"]


def test_labels_without_names_get_no_file(golden_folder, tmp_path):
    result = export(golden_folder / "tiny_finetuned.pt", "safetensors", tmp_path / "out")
    assert [file.name for file in result.files] == ["config.json", "model.safetensors"]
    named = export(result.folder, "safetensors", tmp_path / "named", labels="ecg-fm")
    description, _ = read_description(named.folder)
    assert description.names_are_known and "Atrial fibrillation" in description.label_names
    assert description.provenance["checkpoint"] == "tiny_finetuned.pt"


def test_damaged_safetensors(small, tmp_path):
    folder = shutil.copytree(small[1]["safetensors"].folder, tmp_path / "damaged")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="model.safetensors: is not the file that .*config.json was written for"):
        export(folder, "onnx", tmp_path / "out")
    facts = json.loads((folder / "config.json").read_text())
    del facts["training"]
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="does not hold the config of the training"):
        export(folder, "onnx", tmp_path / "out")
    assert left(tmp_path) == ["damaged"]


def test_unknown_format(small):
    with pytest.raises(UserError, match="--to 'keras': use one of safetensors, torchscript, onnx, ecg-fm"):
        export(small[0], "keras")


def test_fingerprints_see_a_bit():
    tensor = torch.zeros(3)
    assert export_check.fingerprints({"a": tensor}) == export_check.fingerprints({"a": tensor.clone()})
    for other in (-tensor, tensor.half(), tensor.reshape(3, 1), torch.tensor(0.0)):
        assert export_check.fingerprints({"a": tensor}) != export_check.fingerprints({"a": other})


def test_probes_are_shortened():
    lengths = [(~padding).sum(-1).tolist() for _, padding in export_check.probes(describe(made_up_checkpoint()))]
    assert lengths == [[500], [300], [500] * 3, [300, 400, 500]]
