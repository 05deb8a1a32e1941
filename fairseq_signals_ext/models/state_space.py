"""A causal encoder: convolutions with stride, then diagonal state-space layers (S4D, Gu et al. 2022, arXiv 2206.11893).

A layer is a convolution over the past whose kernel, as long as the segment, follows from a few parameters per feature.
While training it is computed by Fourier transform, otherwise, and in exports, as a plain convolution.
"""

import math
from typing import Any, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_signals_ext.common.conv_layers import ConvLayer, Geometry, parse_conv_layers
from fairseq_signals_ext.models.ecg_wav2vec2 import EcgFeatureExtractor
from fairseq_signals_ext.models.encoder import padding_of_frames
from fairseq_signals_ext.models.faster_parts import fast_length

# range of the time steps that features begin with: the kernels' memory is about one over these, in frames
_SHORTEST_STEP, _LONGEST_STEP = 0.001, 0.1
_DECAY = 0.5


class StateSpaceConvolution(nn.Module):
    """Convolves each feature with its own causal kernel: N x E x T to N x E x T.

    The kernel is the impulse response of E diagonal systems with `state_size` complex conjugate states. The learned
    time steps, decays and frequencies are differences from fixed initial values, so weight decay pulls them there and
    not to zero, where no system is stable.

    Attributes:
        log_step: E, natural logarithm of the time step.
        log_decay: E x states, logarithm of the decay per unit of time.
        frequency: E x states, radians per unit of time.
        output: E x states x 2, real and imaginary part of what a state adds to the output.
        skip: E, weight of the input itself.
    """

    first_log_step: Tensor
    first_frequency: Tensor

    def __init__(self, dimensions: int, state_size: int):
        super().__init__()
        pairs = state_size // 2
        steps = torch.linspace(math.log(_SHORTEST_STEP), math.log(_LONGEST_STEP), dimensions)
        # computed again when a model is built, so none of its parameters
        self.register_buffer("first_log_step", steps, persistent=False)
        self.register_buffer("first_frequency", math.pi * torch.arange(pairs, dtype=torch.float32), persistent=False)
        self.log_step = nn.Parameter(torch.zeros(dimensions))
        self.log_decay = nn.Parameter(torch.zeros(dimensions, pairs))
        self.frequency = nn.Parameter(torch.zeros(dimensions, pairs))
        self.output = nn.Parameter(torch.randn(dimensions, pairs, 2) * math.sqrt(0.5))
        self.skip = nn.Parameter(torch.randn(dimensions))

    def kernel(self, x: Tensor) -> Tensor:
        """The kernel in fp32, E x T, of x, N x E x T; in real numbers, as formats of exports have no complex ones."""
        step = (self.first_log_step + self.log_step).float().exp().unsqueeze(1)
        decay = _DECAY * self.log_decay.float().exp()
        frequency = (self.first_frequency + self.frequency).float()
        real, imaginary = self._input_gain(step, decay, frequency)
        # counted on the input's device: tracing would keep the device of arange
        times = x.new_ones((), dtype=torch.float32).expand(x.shape[-1:]).cumsum(0) - 1
        angles = (step * frequency).unsqueeze(-1) * times
        waves = real.unsqueeze(-1) * angles.cos() - imaginary.unsqueeze(-1) * angles.sin()
        return 2 * (waves * torch.exp(-(step * decay).unsqueeze(-1) * times)).sum(1)

    def _input_gain(self, step: Tensor, decay: Tensor, frequency: Tensor) -> Tuple[Tensor, Tensor]:
        """Real and imaginary part of `output * (exp(step * a) - 1) / a` with `a = -decay + i frequency`, E x states.

        This is how an input that is constant within each step acts on a state (zero-order hold).
        """
        shrunk = torch.exp(-step * decay)
        real, imaginary = shrunk * torch.cos(step * frequency) - 1, shrunk * torch.sin(step * frequency)
        square = decay**2 + frequency**2
        # division by a: multiplication by its conjugate
        real, imaginary = (
            (imaginary * frequency - real * decay) / square,
            -(imaginary * decay + real * frequency) / square,
        )
        of_real, of_imaginary = self.output.float().unbind(-1)
        return of_real * real - of_imaginary * imaginary, of_real * imaginary + of_imaginary * real

    def forward(self, x: Tensor) -> Tensor:
        """The output, N x E x T, of x, N x E x T; frame t depends on frames up to t."""
        with torch.autocast(x.device.type, enabled=False):
            kernel, signal = self.kernel(x), x.float()
            found = _by_fft(signal, kernel) if self.training else _in_time(signal, kernel)
            return (found + signal * self.skip.float().unsqueeze(-1)).type_as(x)


def _by_fft(x: Tensor, kernel: Tensor) -> Tensor:
    frames = x.size(-1)
    # in a shorter one outputs would wrap around
    length = fast_length(2 * frames - 1)
    return torch.fft.irfft(torch.fft.rfft(x, n=length) * torch.fft.rfft(kernel, n=length), n=length)[..., :frames]


def _in_time(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv1d(F.pad(x, (x.size(-1) - 1, 0)), kernel.flip(-1).unsqueeze(1), groups=x.size(1))


class StateSpaceLayer(nn.Module):
    """Norm, convolution over the past, GELU, and a gated linear layer, added to the input: N x T x E."""

    def __init__(self, dimensions: int, state_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(dimensions)
        self.past = StateSpaceConvolution(dimensions, state_size)
        self.gated = nn.Linear(dimensions, 2 * dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """N x T x E, of x, N x T x E."""
        found = F.gelu(self.past(self.norm(x).transpose(1, 2)).transpose(1, 2))
        return x + F.glu(self.gated(found), dim=-1)


class StateSpaceEncoder(nn.Module):
    """From segments to frames. N segments, L leads, S samples, T frames, E = `encoder_embed_dim`."""

    is_smooth = True
    ends_with_norm = True

    def __init__(self, cfg: Any):
        """Args:
        cfg: an `EcgCpcConfig`.
        """
        super().__init__()
        convolutions: List[ConvLayer] = parse_conv_layers(cfg.conv_feature_layers)
        dimensions = int(cfg.encoder_embed_dim)
        self.geometry = Geometry.of_convolutions(convolutions)
        self.feature_extractor = EcgFeatureExtractor(convolutions, cfg.in_d, mode="layer_norm", conv_bias=False)
        self.projection = nn.Linear(convolutions[-1][0], dimensions)
        self.stack = nn.ModuleList(StateSpaceLayer(dimensions, cfg.state_size) for _ in range(cfg.encoder_layers))
        self.norm = nn.LayerNorm(dimensions)

    @property
    def layers(self) -> int:
        """Number of state-space layers."""
        return len(self.stack)

    def features(self, source: Tensor) -> Tensor:
        """Features of the convolutions, N x T x E, of `source`, N x L x S; the input of the first layer."""
        return self.projection(self.feature_extractor(source).transpose(1, 2))

    def outputs(self, source: Tensor, last: Optional[int] = None) -> List[Tensor]:
        """Features, and the outputs of the first `last` layers (None: all): N x T x E each; `source`: N x L x S."""
        found = [self.features(source)]
        for layer in self.stack[:last]:
            found.append(layer(found[-1]))
        return found

    def frames(self, source: Tensor, padding_mask: Tensor, layer: Optional[int] = None) -> Tuple[Tensor, Tensor]:
        """See `Encoder.frames`."""
        x = self.outputs(source, layer)[-1]
        return self.norm(x) if layer is None else x, padding_of_frames(x, padding_mask, self.geometry)

    def all_frames(self, source: Tensor, padding_mask: Tensor) -> Tuple[List[Tensor], Tensor]:
        """See `Encoder.all_frames`; in one pass."""
        found = self.outputs(source)
        return [*found, self.norm(found[-1])], padding_of_frames(found[-1], padding_mask, self.geometry)
