"""Models can be copied and pickled, at any time, as an exponential moving average (fairseq's EMA) needs it."""

import copy
import pickle

import numpy as np
import pytest
import torch
from made_up_checkpoints import SMALL

from fairseq_signals_ext.models.ecg_classifier import EcgTransformerClassifier, EcgTransformerClassifierConfig
from fairseq_signals_ext.models.ecg_data2vec import EcgData2VecConfig, EcgData2VecModel
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgWav2Vec2Config, Wav2Vec2CmscModel

PRETRAINING = {**SMALL, "num_negatives": 5}
MODELS = {
    "pretraining": lambda: Wav2Vec2CmscModel(EcgWav2Vec2Config(**PRETRAINING)),
    "fast": lambda: Wav2Vec2CmscModel(
        EcgWav2Vec2Config(**PRETRAINING, fused_qkv=True, fft_pos_conv=True, fused_contrast=True, bf16_autocast=True)
    ),
    "teacher": lambda: EcgData2VecModel(EcgData2VecConfig(**PRETRAINING)),
    "recomputed layers": lambda: Wav2Vec2CmscModel(EcgWav2Vec2Config(**PRETRAINING, checkpoint_activations=True)),
    "deeper positions": lambda: Wav2Vec2CmscModel(EcgWav2Vec2Config(**PRETRAINING, pos_conv_depth=2)),
    "classifier": lambda: EcgTransformerClassifier(EcgTransformerClassifierConfig(**SMALL, num_labels=3)),
}


def loss_of(model):
    torch.manual_seed(1)
    np.random.seed(1)  # for layers that are dropped
    masked = (torch.arange(12) % 3 == 0).expand(2, -1)
    masks = {} if isinstance(model, EcgTransformerClassifier) else {"mask_indices": masked}
    found = model(torch.randn(2, 12, 200), **masks)
    # no sum of squares, which a norm of layers makes a constant
    return (found["features"] if masks else found["out"]).float()[..., ::2].sum()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("how", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))], ids=["copy", "pickle"])
def test_a_copy_computes_and_learns_the_same_and_is_another(make, how):
    torch.manual_seed(0)
    model = make().train()
    loss_of(model).backward()  # leaves computed weights behind
    other = how(model)
    model.zero_grad()
    other.zero_grad()
    losses = [loss_of(one) for one in (model, other)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        assert theirs[name].data_ptr() != parameter.data_ptr()
        assert (parameter.grad is None) == (theirs[name].grad is None), name
        assert parameter.grad is None or torch.equal(parameter.grad, theirs[name].grad), name


def test_the_copy_of_a_model_in_the_middle_of_an_update_leaves_its_gradients():
    models = [MODELS["classifier"]().train() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    losses = [loss_of(model) for model in models]
    copy.deepcopy(models[0])
    for loss in losses:
        loss.backward()
    for one, two in zip(*(model.parameters() for model in models)):
        assert one.grad is None or torch.equal(one.grad, two.grad)
