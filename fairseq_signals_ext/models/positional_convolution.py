"""The transformer's positional convolution by Fourier transform: its kernel is nearly as long as a segment."""

import torch
from torch import Tensor, nn


class FftConv1d(nn.Conv1d):
    """While training, torch's convolution of stride 1 by the convolution theorem, in fp32; equal up to rounding.

    In time, each of T frames costs K products for each pair of features of a group; in frequency, a few. What GPUs have
    for long grouped kernels in bf16 is slow besides: on an H200 six times slower than in fp32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features, B x features x (T + 2 * padding - K + 1), of `x`, B x features x T."""
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._convolved(x.float()).type_as(x)

    def _convolved(self, x: Tensor) -> Tensor:
        frames, (kernel,), (padding,) = x.size(-1), self.kernel_size, self.padding
        # in a shorter one outputs would wrap around
        length = _fast_length(frames + kernel - 1 + 2 * max(0, padding - kernel + 1))
        # groups x frequencies x segments x features in, and groups x frequencies x features in x features out
        signal = torch.fft.rfft(x, n=length).unflatten(1, (self.groups, -1)).permute(1, 3, 0, 2)
        weight = torch.fft.rfft(self.weight.float(), n=length).unflatten(0, (self.groups, -1)).permute(0, 3, 2, 1)
        # the conjugate, as what torch calls a convolution is a correlation
        product = (signal @ weight.conj()).permute(2, 0, 3, 1).flatten(1, 2)
        result = torch.fft.irfft(product, n=length)
        # output 0 has the kernel start `padding` frames before the first one
        result = result.roll(padding, dims=-1)[..., : frames + 2 * padding - kernel + 1]
        return result if self.bias is None else result + self.bias.float().unsqueeze(-1)


def _fast_length(least: int) -> int:
    """The next product of powers of 2, 3 and 5; scipy.fft has this, but torch.compile cannot look into it."""
    length, rest = least, 0
    while rest != 1:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        length += 1
    return length - 1
