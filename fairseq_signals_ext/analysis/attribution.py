"""Saliency maps of a model by attention, gradients, or occlusion of time windows (captum)."""

from typing import Any, Callable, Optional

import numpy as np

from fairseq_signals_ext.analysis.occlusion import label_position
from fairseq_signals_ext.common.conv_layers import Geometry
from fairseq_signals_ext.common.errors import UserError
from fairseq_signals_ext.inference.model import LoadedModel

INTEGRATED, PLAIN, TIMES_INPUT = "gradient", "gradient:saliency", "gradient:input-x-gradient"
# segments per pass with gradients
_AT_ONCE = 32
# The network's first normalisation removes the scale of its input, so between zeros and the input nearly all change
# happens in the first hundredth. On the golden classifier 50 points, denser near zero by this power, have an error of
# 1e-4 of the difference, 200 evenly spaced points 4e-3.
_POWER = 4


def samples_of_frames(values: np.ndarray, padding_mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Convert values of frames to samples: a sample gets the mean over the frames that contain it.

    Frames that reach into padding do not count.

    Args:
        values: N x T, one value per frame.
        padding_mask: bool, N x samples, True where a sample is padding.
        geometry: positions of frames in samples.

    Returns:
        float32, N x samples; NaN for samples in no frame.
    """
    (segments, frames), samples = values.shape, padding_mask.shape[1]
    counts = np.arange(frames) < geometry.frames((~padding_mask).sum(axis=1, keepdims=True))
    totals, numbers = np.zeros((2, segments, samples))
    for place in range(geometry.field):
        at = np.arange(frames) * geometry.hop - geometry.before + place
        inside = (at >= 0) & (at < samples)  # the rest is zero padding of the encoder
        totals[:, at[inside]] += np.where(counts, values, 0)[:, inside]
        numbers[:, at[inside]] += counts[:, inside]
    return np.divide(totals, numbers, out=np.full_like(totals, np.nan), where=numbers > 0).astype(np.float32)


def attention_map(model: LoadedModel, layer: Optional[int], roll_out: bool) -> Callable[..., np.ndarray]:
    """Return a function of source and padding mask that computes attention saliency, N x samples.

    See `samples_of_frames` for the conversion of frames to samples.

    Args:
        layer: 1 to the number of layers; None: the last that the outputs depend on.
        roll_out: attention rollout through all layers up to this one (Abnar and Zuidema 2020, arXiv 2005.00928): the
            residual connection counts as half of each layer, and the result is the mean over queries. Otherwise the
            maximum over queries of the layer's own weights: ECG-FM's saliency (arXiv 2408.05178). Heads are averaged.

    Raises:
        UserError: the model cannot be explained, or has no attention or no such layer.
    """
    network = model.network
    if not network.has_attention:
        raise UserError(f"{model.source}: its encoder has no attention; use the method gradient or occlusion")
    last = network.last_layer if layer is None else layer
    if not 1 <= last <= network.layers:
        raise UserError(f"layer {last}: {model.source} has layers 1 to {network.layers}; give one of them")

    def of_frames(source: Any, padding_mask: Any) -> Any:
        attention = network.attention(source, padding_mask)[:, :last].float()
        is_padding = _padding_frames(padding_mask, attention.shape[-1], network.geometry)
        return (_rolled_out(attention, is_padding) if roll_out else _strongest(attention[:, -1], is_padding),)

    def of_samples(source: np.ndarray, padding_mask: np.ndarray) -> np.ndarray:
        (values,) = model.backend.run(of_frames, source, padding_mask)  # type: ignore[attr-defined]
        return samples_of_frames(values, padding_mask, network.geometry)

    return of_samples


def _padding_frames(padding_mask: Any, frames: int, geometry: Geometry) -> Any:
    """Mask of frames that reach into padding: bool tensor, N x T."""
    import torch

    valid = geometry.frames((~padding_mask).sum(-1, keepdim=True))
    return torch.arange(frames, device=padding_mask.device) >= valid


def _strongest(attention: Any, is_padding: Any) -> Any:
    """Maximum of attention over queries, N x T; input: N x T (queries) x T (keys)."""
    return attention.masked_fill(is_padding.unsqueeze(-1), 0).amax(dim=1)


def _rolled_out(attention: Any, is_padding: Any) -> Any:
    """Attention rollout: mean share of each frame in the last layer, N x T; input: N x layers x T x T."""
    import torch

    unchanged = torch.eye(attention.shape[-1], device=attention.device)
    rolled = unchanged
    for weights in attention.unbind(1):
        rolled = (weights + unchanged) / 2 @ rolled
    kept = (~is_padding).float()
    return torch.einsum("nq,nqk->nk", kept / kept.sum(1, keepdim=True), rolled)


def gradient_map(model: LoadedModel, label: str, method: str, steps: int) -> Callable[..., np.ndarray]:
    """Return a function of source and padding mask that computes attributions: float32, N x leads x samples, signed.

    They explain a label's logit, or a regression's value in its unit. An input of zero is a lead's mean, because the
    input is standardised.

    Args:
        method: "gradient": integrated gradients from zeros (Sundararajan et al. 2017, arXiv 1703.01365), whose sum over
            a segment is its logit minus the logit of zeros (with an error of 2 % for 50 steps, 0.05 % for 100, on
            random networks); "gradient:saliency": the gradient alone;
            "gradient:input-x-gradient": the gradient times the input.
        steps: points of the integral.

    Raises:
        UserError: the model cannot be explained, has no such label, or has no gradient.
    """
    from captum.attr import InputXGradient, IntegratedGradients
    from captum.attr import Saliency as Gradient

    network, position = model.network, label_position(model, label)
    if not network.is_smooth:
        hint = "use the method attention or occlusion"
        raise UserError(f"{model.source}: its input is quantized, which has no gradient; {hint}")

    def output(source: Any, padding_mask: Any) -> Any:
        return network(source, padding_mask)[0][:, position]

    def integrated(source: Any, padding_mask: Any) -> Any:
        # even steps for the root of the input are steps for the input that are denser near zero
        way = IntegratedGradients(lambda root, mask: output(root * root.abs() ** (_POWER - 1), mask))
        root = source.sign() * source.abs() ** (1 / _POWER)
        at_once = max(_AT_ONCE, len(source))
        return way.attribute(root, additional_forward_args=padding_mask, n_steps=steps, internal_batch_size=at_once)

    def attributions(source: Any, padding_mask: Any) -> Any:
        source.requires_grad_()
        if method == INTEGRATED:
            return integrated(source, padding_mask)
        if method == PLAIN:
            return Gradient(output).attribute(source, abs=False, additional_forward_args=padding_mask)
        return InputXGradient(output).attribute(source, additional_forward_args=padding_mask)

    return _on_arrays(model, attributions)


def window_map(model: LoadedModel, label: str, seconds: float) -> Callable[..., np.ndarray]:
    """Return a function of source and padding mask that computes occlusion maps, N x samples: drops of the score.

    A window in which all leads are zero moves by half its length; a sample gets the mean over the windows that contain
    it (Zeiler and Fergus 2014, arXiv 1311.2901). The score is the probability, or a regression's value.

    Args:
        seconds: length of the window.

    Raises:
        UserError: the model cannot be explained or has no such label.
    """
    from captum.attr import Occlusion

    network, position = model.network, label_position(model, label)
    kind, activation = model.description.of_kind, model.description.activation
    window = max(1, round(seconds * model.sample_rate))

    def score(source: Any, padding_mask: Any) -> Any:
        return kind.tensor_scores(network(source, padding_mask)[0], activation)[:, position]

    def drops(source: Any, padding_mask: Any) -> Any:
        _, leads, samples = source.shape
        length = min(window, samples)
        found = Occlusion(score).attribute(
            source,
            sliding_window_shapes=(leads, length),
            strides=(leads, max(1, length // 2)),
            additional_forward_args=padding_mask,
            perturbations_per_eval=max(1, _AT_ONCE // len(source)),
        )
        return found[:, 0]

    return _on_arrays(model, drops)


def _on_arrays(model: LoadedModel, function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Wrap a function of tensors for arrays, with the model's device and threads."""
    import torch

    backend: Any = model.backend

    def wrapped(source: np.ndarray, padding_mask: np.ndarray) -> np.ndarray:
        with backend.set_up():
            given = (torch.from_numpy(array).to(backend.device) for array in (source, padding_mask))
            return function(*given).detach().float().cpu().numpy()

    return wrapped
