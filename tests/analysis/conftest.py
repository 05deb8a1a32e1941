"""Models with known saliency."""

import pytest
import torch
from made_up_checkpoints import LABELS, made_up_checkpoint
from torch import nn

from fairseq_signals_ext.checkpoints.describing import describe
from fairseq_signals_ext.checkpoints.description import ModelDescription, Preprocessing
from fairseq_signals_ext.common.conv_layers import Geometry, frames_of
from fairseq_signals_ext.inference.backends import TorchBackend
from fairseq_signals_ext.inference.model import LoadedModel
from fairseq_signals_ext.inference.network import build_network


class Planted(nn.Module):
    """Looks at one lead and one sample: the logits are 1, 2 and -1 times it.

    Its attention is that of frames which look at the last frame that the sample is part of.
    """

    is_smooth, layers, last_layer = True, 2, 2

    def __init__(self, lead, sample, conv_layers):
        super().__init__()
        self.lead, self.sample, self.conv_layers = lead, sample, conv_layers
        self.geometry = Geometry.of_convolutions(conv_layers)

    def forward(self, source, padding_mask):
        value = source[:, self.lead, self.sample]
        return torch.stack([value, 2 * value, -value], dim=1), source.mean(dim=2)

    has_attention = True

    def attention(self, source, padding_mask):
        frames = frames_of(source.shape[2], self.conv_layers)
        hop = torch.tensor([stride for _, _, stride in self.conv_layers]).prod()
        weights = torch.full((len(source), self.layers, frames, frames), 0.5 / frames)
        weights[..., min(self.sample // hop, frames - 1)] += 0.5
        return weights


def _model(network, samples=500, **facts):
    facts = {"kind": "classification", "label_names": LABELS, "aggregation": ("mean",) * 3, **facts}
    inputs = Preprocessing(segment_samples=samples, stride_samples=samples)
    return LoadedModel(
        ModelDescription(architecture={}, preprocessing=inputs, **facts), TorchBackend(network), "planted"
    )


@pytest.fixture(scope="session")
def planted():
    """Makes a model that looks at one lead and sample of each segment."""

    def make(lead=0, sample=0, conv_layers=((1, 2, 2),) * 4, **facts):
        return _model(Planted(lead, sample, list(conv_layers)).eval(), **facts)

    return make


@pytest.fixture(scope="session")
def made_up_model():
    """Makes the model of a made-up checkpoint."""

    def make(kind="classification", **options):
        checkpoint = made_up_checkpoint(kind, **options)
        description = describe(checkpoint)
        return LoadedModel(description, TorchBackend(build_network(checkpoint, description)), "made_up.pt")

    return make
