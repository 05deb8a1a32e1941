"""Exports with a graph or description that would need all memory: refused in one line before anything runs."""

import hashlib
import json
import resource
import time

import numpy as np
import onnx
import pytest
from made_up_checkpoints import SAMPLES
from onnx import TensorProto, helper

import fairseq_signals_ext
from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing, write_description
from fairseq_signals_ext.checkpoints.inspecting import inspect_model
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference import onnx_graph

_ECG = np.random.default_rng(0).normal(size=(12, SAMPLES))
_LONGEST = 10  # seconds, on a busy machine
_MOST_MEMORY = 1_000_000  # kB


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A description, and a graph that gives the means of the leads."""
    folder = tmp_path_factory.mktemp("export")
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["source", "axes"], ["embedding"], keepdims=0)],
        "means",
        [
            helper.make_tensor_value_info("source", TensorProto.FLOAT, ["segments", 12, SAMPLES]),
            helper.make_tensor_value_info("padding_mask", TensorProto.BOOL, ["segments", SAMPLES]),
        ],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, None)],
        [constant("axes", np.asarray([2], np.int64))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    inputs = Preprocessing(segment_samples=SAMPLES, stride_samples=SAMPLES)
    description = ModelDescription("pretraining", {"conv_feature_layers": "[(16, 2, 2)] * 4"}, inputs)
    write_description(description, "model.onnx", folder)
    return folder


def constant(name, values):
    return onnx.numpy_helper.from_array(np.asarray(values), name)


def of_shape(shape, operator="ConstantOfShape"):
    """Nodes and constants that make a tensor of a shape."""
    inputs = ["one", "shape"] if operator == "Expand" else ["shape"]
    constants = [constant("shape", np.asarray(shape, np.int64)), constant("one", np.ones(1, np.float32))]
    return [helper.make_node(operator, inputs, ["large"])], constants


def loop():
    """A loop of 10^12 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["continues"], ["continues_too"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("continues", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("continues_too", TensorProto.BOOL, [])],
    )
    constants = [constant("rounds", np.asarray(10**12, np.int64)), constant("true", np.asarray(True))]
    return [helper.make_node("Loop", ["rounds", "true"], [], body=body)], constants


def claims(dims):
    """A constant that claims more values than the file has."""
    return [], [TensorProto(name="large", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4)]


def pads(by):
    return [helper.make_node("Pad", ["source", "by"], ["large"])], [constant("by", np.full(6, by, np.int64))]


HOSTILE = {
    "constant of a shape": lambda: of_shape([10**9]),
    "constant of three": lambda: of_shape([10**6, 10**6, 10**6]),
    "expand": lambda: of_shape([10**9], "Expand"),
    "tile": lambda: ([helper.make_node("Tile", ["source", "times"], ["large"])], [constant("times", [1, 1, 10**9])]),
    "range": lambda: ([helper.make_node("Range", ["a", "b", "c"], ["large"])], [constant(n, 10**9) for n in "abc"]),
    "resize": lambda: ([helper.make_node("Resize", ["source", "", "by"], ["large"])], [constant("by", [1e3] * 3)]),
    "random": lambda: ([helper.make_node("RandomNormal", [], ["large"], shape=[10**9])], []),
    "loop": loop,
    "if": lambda: ([helper.make_node("If", ["x"], ["y"], then_branch=helper.make_graph([], "a", [], []))], []),
    "of another domain": lambda: ([helper.make_node("Add", ["source", "source"], ["large"], domain="theirs")], []),
    "claims": lambda: claims([10**9]),
    "claims two": lambda: claims([10**5, 10**5]),
    "claims below 0": lambda: claims([-4]),
    "pad": lambda: pads(10**8),
    "convolution with padding": lambda: (
        [helper.make_node("Conv", ["source", "weight"], ["large"], pads=[10**9, 10**9])],
        [constant("weight", np.ones((1, 12, 1), np.float32))],
    ),
    "many nodes": lambda: ([helper.make_node("Identity", ["source"], [f"x{n}"]) for n in range(400_000)], []),
}


def with_graph(folder, to, change):
    """A copy of an export with more in its graph, and a description that is written for it."""
    model = onnx.load(str(folder / "model.onnx"))
    change(model.graph)
    to.mkdir()
    facts = json.loads((folder / "config.json").read_text())
    content = model.SerializeToString()
    (to / "model.onnx").write_bytes(content)
    facts["sha256"] = {"model.onnx": hashlib.sha256(content).hexdigest()}
    (to / "config.json").write_text(json.dumps(facts))
    return to


def refused(path):
    """The message for a refused file; refusing needs little memory and time."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(UserError) as error:
        fairseq_signals_ext.load(path).embed(_ECG, 500)
    assert time.monotonic() - start < _LONGEST
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + _MOST_MEMORY
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_graph_itself_is_taken(exported):
    np.testing.assert_allclose(fairseq_signals_ext.load(exported).embed(_ECG, 500).ravel().shape, (12,))


@pytest.mark.parametrize("name", [n if n != "many nodes" else pytest.param(n, marks=pytest.mark.slow) for n in HOSTILE])
def test_graphs_that_take_all_memory(exported, tmp_path, name):
    nodes, constants = HOSTILE[name]()

    def change(graph):
        graph.node.extend(nodes)
        graph.initializer.extend(constants)

    assert "model.onnx: damaged, or not an export of ours" in refused(
        with_graph(exported, tmp_path / "hostile", change)
    )


def test_a_shape_that_is_computed_is_stopped_by_the_limit_of_memory(exported, tmp_path):
    """Constants of 10^4 bytes with products of any size; the limit is half of the memory."""
    size = 10**7  # squared, more than any machine has

    def change(graph):
        graph.initializer.append(constant("a_shape", np.asarray([1, size], np.int64)))
        graph.initializer.append(constant("a_one", np.ones((1, 1), np.float32)))
        graph.node.extend(
            [
                helper.make_node("Expand", ["a_one", "a_shape"], ["a_row"]),
                helper.make_node("Transpose", ["a_row"], ["a_column"], perm=[1, 0]),
                helper.make_node("MatMul", ["a_column", "a_row"], ["a_square"]),
                helper.make_node("ReduceSum", ["a_square"], ["a_sum"], keepdims=0),
            ]
        )
        graph.node[0].output[0] = "own"
        graph.node.append(helper.make_node("Add", ["own", "a_sum"], ["embedding"]))

    said = refused(with_graph(exported, tmp_path / "hostile", change))
    assert "cannot be run" in said or "damaged" in said


@pytest.mark.parametrize(
    "content", [b"\x0a\xff\xff\xff\xff\x0f", b"\x3a\x05", b"\xff" * 20, b"\x3a\x00", b"\x08" * 9, b""]
)
def test_files_that_are_no_graph(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match="model.onnx: damaged, or not an export of ours"):
        onnx_graph.check_graph(tmp_path / "model.onnx")


CONFIGS = {
    "rate": {"preprocessing": {"sample_rate": 1e12}},
    "rate that is no number": {"preprocessing": {"sample_rate": float("nan")}},
    "segment": {"preprocessing": {"segment_samples": 10**12, "stride_samples": 10**12}},
    "short segment": {"preprocessing": {"segment_samples": 1}},
    "stride": {"preprocessing": {"stride_samples": 10**15}},
    "names": {"label_names": ["A"] * 100_001},
    "a name of several lines": {"label_names": ["A\nB", "B", "C"]},
    "thresholds": {"kind": "classification", "label_names": ["A"], "aggregation": ["mean"], "thresholds": ["a"]},
    "convolutions": {"architecture": {"conv_feature_layers": "__import__('os').getcwd()"}},
    "many convolutions": {"architecture": {"conv_feature_layers": "[(16, 2, 2)] * 10 ** 9"}},
    "strides": {"architecture": {"conv_feature_layers": "[(16, 2, 1)]"}, "preprocessing": {"segment_samples": 10**6}},
    "a target": {"architecture": {"_target_": "os.system"}},
    "a long text": {"threshold_rule": "x" * 10**6},
    "a long number": {"provenance": {"updates": 10**400}},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_descriptions_that_no_model_has(exported, tmp_path, name):
    folder = with_graph(exported, tmp_path / "hostile", lambda graph: None)
    facts = json.loads((folder / "config.json").read_text())
    for part, change in CONFIGS[name].items():
        facts[part] = {**facts[part], **change} if isinstance(change, dict) else change
    (folder / "config.json").write_text(json.dumps(facts))
    assert "config.json: " in refused(folder)
    with pytest.raises(UserError, match="config.json: "):
        inspect_model(folder)


def test_descriptions_that_are_deep_or_long(exported, tmp_path):
    folder = with_graph(exported, tmp_path / "hostile", lambda graph: None)
    for content in ("[" * 10**5, '{"a":' * 10**5, "1" * 10**5, "{}" + " " * 2**24, '{"format": "fairseq-signals-ext"'):
        (folder / "config.json").write_text(content)
        assert "config.json: not of an export of this version" in refused(folder)
