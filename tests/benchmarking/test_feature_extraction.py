"""Features of every layer for a prepared folder: what they are, resumed runs, parts, and mistakes."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import write_mat, write_shards
from made_up_checkpoints import made_up_checkpoint, saved_checkpoint

import fairseq_signals_ext
from fairseq_signals_ext.benchmarking import extraction
from fairseq_signals_ext.benchmarking.extraction import ExtractionOptions, extract
from fairseq_signals_ext.benchmarking.features import Features
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference import reading_ahead
from fairseq_signals_ext.inference.export import export
from fairseq_signals_ext.inference.inputs import find_inputs
from fairseq_signals_ext.inference.parts import Part
from fairseq_signals_ext.inference.running import RunOptions

# samples; the made-up model takes 500 of every 2500, which are 31 frames; the third has padding
LENGTHS = (2600, 12_600, 300, 5000, 7500, 2500)
FRAMES_OF_PADDED = 18
ONE_THREAD = {"threads": 1, "how": RunOptions(batch_size=4, at_once=1)}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return str(saved_checkpoint(folder / "model.pt", "pretraining", layer_norm_first=True))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder, LENGTHS, split="all")
    return folder / "all.tsv"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mistake(*given, **options):
    with pytest.raises(UserError) as error:
        extract(*given, ExtractionOptions(**options))
    message = str(error.value)
    assert "\n" not in message
    return message


def frames_of(checkpoint, data, layer):
    """For each recording its frames, those of its segments after each other, by the model itself."""
    model, inputs = fairseq_signals_ext.load(checkpoint), find_inputs([data])
    for number, samples in enumerate(LENGTHS):
        found = model.embed(inputs.recording(number), per="frame", layer=layer)
        yield found[:, : FRAMES_OF_PADDED if samples < 500 else 31].reshape(-1, 32).astype(np.float64)


def test_each_layer_is_what_the_model_gives_for_it(checkpoint, data, tmp_path):
    found = extract(checkpoint, data, tmp_path / "out", ExtractionOptions(frames=("output", "1")))
    assert (found.name, found.layers, found.dimensions) == ("model.pt", ("0", "1", "2", "output"), 32)
    assert found.idx.tolist() == list(range(len(LENGTHS)))
    assert isinstance(found.values, np.memmap) and found.values.dtype == np.float32
    for position, layer in enumerate((0, 1, 2, None)):
        expected = list(frames_of(checkpoint, data, layer))
        statistics = [[*one.mean(axis=0), *one.std(axis=0)] for one in expected]
        np.testing.assert_allclose(found.matrix(position, deviation=True), statistics, atol=2e-5)
        np.testing.assert_array_equal(found.matrix(position), found.matrix(position, deviation=True)[:, :32])
        if layer in (1, None):
            frames, lengths = found.frames(position)
            assert isinstance(frames, np.memmap) and (frames.dtype, frames.shape) == (np.float16, (6, 5 * 31, 32))
            assert lengths.tolist() == [len(one) for one in expected]
            for row, one in zip(frames, expected):
                np.testing.assert_allclose(row[: len(one)], one, atol=5e-3)
                assert not row[len(one) :].any()


def test_the_reference(golden_folder, tmp_path):
    golden = np.load(golden_folder / "tiny_golden.npz")
    for number, source in enumerate(golden["source"]):
        write_mat(tmp_path / f"{number}.mat", source, 70 + number)
    lines = [f"{number}.mat\t2500\n" for number in range(8)]
    (tmp_path / "test.tsv").write_text("".join([f"{tmp_path}\n", *lines]))
    found = extract(str(golden_folder / "tiny_pretrained.pt"), tmp_path / "test.tsv", tmp_path / "out")
    assert found.idx.tolist() == [70 + number for number in range(8)]
    frames = golden["encoder_out"]
    both = np.concatenate([frames.mean(axis=1), frames.std(axis=1)], axis=1)
    np.testing.assert_allclose(found.matrix(-1, deviation=True), both, atol=2e-3)  # .mat values are rounded


@pytest.mark.parametrize("to", ["safetensors", "torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_export(data, tmp_path, to):
    path = saved_checkpoint(tmp_path / "model.pt")
    expected = extract(str(path), data, tmp_path / "of_checkpoint")
    export(path, to, tmp_path / "exported")
    found = extract(str(tmp_path / "exported"), data, tmp_path / "of_export")
    np.testing.assert_allclose(found.matrix(-1), expected.matrix(-1), atol=2e-5)
    assert found.has_deviation == (to == "safetensors") and len(found.layers) == (3 if to == "safetensors" else 1)
    if to != "safetensors":
        with pytest.raises(UserError, match="means alone"):
            found.matrix(0, deviation=True)
        assert "has only its outputs" in mistake(str(tmp_path / "exported"), data, tmp_path / "a", frames=["2"])
        assert "not the parameters" in mistake(f"random:{tmp_path / 'exported'}", data, tmp_path / "a")


def test_random_weights_are_those_that_a_training_begins_with(checkpoint, data, tmp_path, registered):
    from fairseq.models import build_model
    from omegaconf import OmegaConf

    made = made_up_checkpoint("pretraining", layer_norm_first=True)
    torch.manual_seed(7)
    drawn = build_model(OmegaConf.create(dict(made.model_config)), None).state_dict()
    torch.save({**made.state, "model": drawn}, tmp_path / "drawn.pt")
    expected = extract(str(tmp_path / "drawn.pt"), data, tmp_path / "expected")
    before = torch.get_rng_state()
    found = extract(f"random:{checkpoint}", data, tmp_path / "found", ExtractionOptions(seed=7))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.name == "random:model.pt"
    assert "another seed" in mistake(f"random:{checkpoint}", data, tmp_path / "found", seed=8)


def test_parts_leave_what_one_run_leaves(checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setattr(reading_ahead, "GROUP", 2)
    options = {**ONE_THREAD, "frames": ["1"]}
    extract(checkpoint, data, tmp_path / "whole", ExtractionOptions(**options))
    found = [
        extract(checkpoint, data, tmp_path / "parts", ExtractionOptions(part=Part(number, 3), **options))
        for number in (3, 1, 2)
    ]
    assert found[:2] == [None, None] and found[2].layers == ("0", "1", "2", "output")
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    assert extract(checkpoint, data, tmp_path / "parts", ExtractionOptions(part=Part(1, 3), **options)) is not None


def test_processes_that_read_change_nothing(checkpoint, data, tmp_path):
    for jobs in (0, 1):
        extract(checkpoint, data, tmp_path / str(jobs), ExtractionOptions(threads=1, how=RunOptions(4, jobs, 1)))
    assert content(tmp_path / "0") == content(tmp_path / "1")


# in one process, which imports all of it once, and then kills a copy of itself at each place
KILLED = """
import os, signal, sys
import pandas, scipy.ndimage, scipy.signal  # once, not in each copy
from pathlib import Path
if sys.argv[1] != "hand-made":
    import torch
    torch.set_num_threads(2)  # as conftest.py does: the last bits depend on it
    import fairseq_signals_ext
    fairseq_signals_ext.register()
from fairseq_signals_ext.benchmarking import extraction, features
from fairseq_signals_ext.inference import results
from fairseq_signals_ext.inference.running import RunOptions

results._PART_RECORDINGS = 1
options = extraction.ExtractionOptions(threads=1, how=RunOptions(batch_size=4, at_once=1), frames=["1"])

def kill_at(module, name, at):
    original, calls = getattr(module, name), iter(range(1, 100))
    def killed(*given, **named):
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*given, **named)
    setattr(module, name, killed)

places = {
    "recordings": (results.Results, "count", 6),
    "part": (results, "_checksums_of_arrays", 2),
    "files": (features, "_write_array", 1),
    "end": (results.Kept, "clean", 1),
}
for place, given in places.items():
    child = os.fork()
    if not child:
        kill_at(*given)
        extraction.extract(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]) / place, options)
        os._exit(0)
    print(place, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("of_model", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_continues_to_the_same_bytes(checkpoint, data, tmp_path, of_model):
    source = checkpoint if of_model else "hand-made"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, str(data), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    places = ("recordings", "part", "files", "end")
    assert done.stdout.splitlines() == [f"{place} {-signal.SIGKILL}" for place in places], done.stderr
    options = ExtractionOptions(**ONE_THREAD, frames=["1"])
    extract(source, data, tmp_path / "whole", options)
    for place in places:
        assert (tmp_path / place / ".unfinished").is_dir()
        extract(source, data, tmp_path / place, options)
        assert content(tmp_path / place) == content(tmp_path / "whole"), place


def test_finished_features_are_opened_without_the_model(checkpoint, data, tmp_path, monkeypatch):
    extract(checkpoint, data, tmp_path / "out")
    monkeypatch.setattr(extraction, "load_model", None)
    found = extract(checkpoint, data, tmp_path / "out", name="mine")
    np.testing.assert_array_equal(found.values, Features.open(tmp_path / "out").values)
    assert found.name == "mine"


def test_features_of_another_model_or_other_data_are_not_mixed(checkpoint, data, tmp_path, caplog):
    other = str(saved_checkpoint(tmp_path / "other.pt"))
    write_shards(tmp_path / "data", LENGTHS[:2], split="all", seed=1)
    out = tmp_path / "out"
    extract(checkpoint, data, out)
    assert "another model; give another folder" in mistake(other, data, out)
    assert "another recordings" in mistake(checkpoint, tmp_path / "data" / "all.tsv", out)
    found = extract(other, tmp_path / "data" / "all.tsv", out, ExtractionOptions(overwrite=True))
    assert (found.name, len(found)) == ("other.pt", 2) and "they are replaced" in caplog.text
    # also where a run was interrupted
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(extraction.ModelFeatures, "_row", lambda *given: (_ for _ in ()).throw(RuntimeError()))
        extract(checkpoint, data, tmp_path / "begun")
    assert "had another model" in mistake(other, data, tmp_path / "begun")
    assert extract(other, data, tmp_path / "begun", ExtractionOptions(overwrite=True)).name == "other.pt"


def test_mistakes(checkpoint, data, tmp_path):
    out = tmp_path / "out"
    assert "no such file or folder" in mistake(checkpoint, tmp_path / "absent", out)
    assert "has no manifest" in mistake(checkpoint, tmp_path, out)
    assert "absent.pt: no such file" in mistake(str(tmp_path / "absent.pt"), data, out)
    assert "no layer 5; it has 0, 1, 2, output" in mistake(checkpoint, data, out, frames=["5"])
    assert "need 0 MB" in mistake(checkpoint, data, out, frames=["1"], most_bytes=1000)
    write_shards(tmp_path / "slow", [2500], split="all", sample_rate=250)
    assert "250 Hz where 500 Hz is wanted" in mistake(checkpoint, tmp_path / "slow" / "all.tsv", out)
    write_shards(tmp_path / "short", [2500, 8], split="all")
    assert "recording longer than" in mistake(checkpoint, tmp_path / "short" / "all.tsv", tmp_path / "short_out")
    write_shards(tmp_path / "damaged", [2500], split="all")
    shard = tmp_path / "damaged" / "shards" / "00000.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    assert "checksum differs" in mistake(checkpoint, tmp_path / "damaged" / "all.tsv", tmp_path / "damaged_out")


def test_frames_that_half_precision_does_not_hold(checkpoint, data, tmp_path):
    state = torch.load(checkpoint, weights_only=True)
    state["model"]["encoder.layer_norm.weight"] *= 1e6
    torch.save(state, tmp_path / "large.pt")
    large = str(tmp_path / "large.pt")
    assert "frames of layer output are beyond" in mistake(large, data, tmp_path / "out", frames=["output"])
    assert len(extract(large, data, tmp_path / "without", ExtractionOptions(frames=["1"]))) == len(LENGTHS)


@pytest.mark.parametrize("name", ["features.npy", "idx.npy", "features.json"])
def test_damaged_folders(checkpoint, data, tmp_path, name):
    with pytest.raises(UserError, match="no such file"):
        Features.open(tmp_path)
    extract(checkpoint, data, tmp_path)
    path = Path(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=name):
        Features.open(tmp_path)
    assert name in mistake(checkpoint, data, tmp_path)
    assert len(extract(checkpoint, data, tmp_path, ExtractionOptions(overwrite=True))) == len(LENGTHS)


def test_layers_and_frames_that_are_not_there(checkpoint, data, tmp_path):
    found = extract(checkpoint, data, tmp_path)
    with pytest.raises(UserError, match="no layer 4; it has 4: 0, 1, 2, output"):
        found.matrix(4)
    with pytest.raises(UserError, match="frames of layer 1 were not kept"):
        found.frames(1)
