"""Compiled parts compute the same; what compiling needs is looked for first."""

import pytest
import torch
from made_up_checkpoints import SMALL

from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.models import faster_parts
from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig
from fairseq_signals_ext.models.faster_parts import check_compiler, compile_parts, without_compiling

OPTIONS = {
    **SMALL,
    "fused_qkv": True,
    "fft_pos_conv": True,
    "checkpoint_activations": True,
    "compile": True,
    "activation_dropout": 0.0,  # compiled code has random numbers of its own
}


def classifier():
    torch.manual_seed(0)
    config = EcgTransformerClassifierConfig(num_labels=3, no_pretrained_weights=True, feature_grad_mult=1.0, **OPTIONS)
    return EcgTransformerClassifier(config).train()


@pytest.mark.slow
def test_same_numbers_by_compiled_code():
    """Values and gradients of a training without dropout, by torch's own code generator."""
    torch._dynamo.reset()
    plain, compiled = classifier(), classifier()
    compile_parts(compiled)
    compile_parts(compiled)  # as at the next epoch
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    source = torch.randn(4, 12, 500)
    gradients = []
    for model in (plain, compiled):
        torch._dynamo.utils.counters.clear()
        model(source)["out"].pow(2).sum().backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert torch._dynamo.utils.counters["inductor"] and not torch._dynamo.utils.counters["graph_break"]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    torch._dynamo.utils.counters.clear()
    with torch.no_grad(), without_compiling(compiled):
        compiled.eval()(source)
    assert not torch._dynamo.utils.counters["stats"], "validation was compiled, too"


@pytest.mark.parametrize("layers", ["mix", 0])
def test_compiled_layers_cannot_be_looked_into(layers):
    config = EcgTransformerClassifierConfig(num_labels=3, layers=layers, **OPTIONS)
    with pytest.raises(UserError, match="model.compile gives no look into the layers, which model.layers asks for"):
        compile_parts(EcgTransformerClassifier(config))


def test_no_compiler(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match="needs a C\\+\\+ compiler, and there is no [\\w+]+: install it"):
        check_compiler()


def test_no_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(faster_parts.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(UserError, match="Python.h is not there"):
        check_compiler()
