"""Backends that run a model: torch or onnxruntime, with the same call on numpy arrays.

A backend is called with `source` (float32, N x leads x samples) and `padding_mask` (bool, N x samples, True where a
sample is padding) and returns float32 arrays: output (N x labels) and embedding (N x E), or the embedding only.
"""

import contextlib
import copy
import warnings
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from fairseq_signals_ext.common.errors import UserError, first_line
from fairseq_signals_ext.inference.onnx_graph import check_graph, limit_memory

Outputs = Tuple[np.ndarray, ...]
_ONNX_DEVICES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class TorchBackend:
    """Runs a torch module.

    Args:
        network: its forward has the arguments of the backend's call, as tensors.
        device: such as "cpu" or "cuda:1".
        threads: on a CPU; None: torch's current setting.
        bf16: matrix products and convolutions in bfloat16, by torch's autocast.

    Attributes:
        network: as given, on the device.
        device: a `torch.device`.

    Raises:
        UserError: there is no such device.
    """

    name = "torch"

    def __init__(self, network: Any, device: str = "cpu", threads: Optional[int] = None, bf16: bool = False):
        self.device = _torch_device(device)
        self.network = network.to(self.device)
        self._threads = threads
        self._bf16 = bf16
        self._is_divided = False

    @contextlib.contextmanager
    def divided(self, calls: int) -> Iterator["TorchBackend"]:
        """The same backend for this many concurrent calls from several threads, which share its CPU threads."""
        import torch

        with _torch_threads(self._threads):
            shared = copy.copy(self)
            shared._threads = max(1, torch.get_num_threads() // calls)
            shared._is_divided = True
            yield shared

    def __call__(self, source: np.ndarray, padding_mask: np.ndarray) -> Outputs:
        """See the module's text."""
        return self.run(self.network, source, padding_mask)

    def run(self, function: Callable[..., Sequence[Any]], source: np.ndarray, padding_mask: np.ndarray) -> Outputs:
        """Run a function of the network on a batch, without gradients.

        Args:
            function: takes `source` and `padding_mask` as tensors on the device; returns tensors.
        """
        import torch

        with self.set_up(), torch.inference_mode():
            given = (torch.from_numpy(array).to(self.device) for array in (source, padding_mask))
            # numpy has no bfloat16
            outputs = (output.float() if output.is_floating_point() else output for output in function(*given))
            return tuple(output.cpu().numpy() for output in outputs)

    @contextlib.contextmanager
    def set_up(self) -> Iterator[None]:
        """Set the threads and the precision that were requested."""
        import torch

        arithmetic = torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)
        if self._is_divided:
            # applies to the calling thread; `divided` restores the default for new threads at the end
            torch.set_num_threads(self._threads or 1)
            with arithmetic:
                yield
        else:
            with _torch_threads(self._threads), arithmetic:
                yield


class TorchScriptBackend(TorchBackend):
    """Runs a TorchScript file with torch alone.

    Such a file is a program that can run code while it is loaded, and its operators can read and write files
    (`torch.from_file`): only use files from people you trust. ONNX and safetensors cannot do this.

    Args:
        path: of the file.
        device, threads, bf16: as `TorchBackend`.

    Raises:
        UserError: the file is damaged, or there is no such device.
    """

    name = "TorchScript"

    def __init__(self, path: Path, device: str = "cpu", threads: Optional[int] = None, bf16: bool = False):
        import torch

        found = _torch_device(device)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
            try:
                network = torch.jit.load(str(path), map_location=found)
            except (RuntimeError, ValueError) as error:
                raise UserError(f"{path}: damaged, or not TorchScript ({first_line(error)}); export again") from None
        super().__init__(network.eval(), device, threads, bf16)


class OnnxBackend:
    """Runs an ONNX file with onnxruntime.

    Args:
        path: of the file, with inputs `source` and `padding_mask`.
        outputs: names of the outputs to compute, in order.
        shape: of a segment: leads, samples.
        device: "cpu", or "cuda" if onnxruntime supports it.
        threads: on a CPU; None: onnxruntime's choice.

    Raises:
        UserError: the file is damaged or has other inputs or outputs, or there is no such device.
    """

    name = "ONNX"

    def __init__(
        self,
        path: Path,
        outputs: List[str],
        shape: Tuple[int, int],
        device: str = "cpu",
        threads: Optional[int] = None,
    ):
        import onnxruntime

        check_graph(path)
        limit_memory()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # its exceptions contain the errors
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[_onnx_provider(device)])
        except UserError:
            raise
        except Exception as error:  # onnxruntime has many exception types without a common base
            raise UserError(f"{path}: damaged, or not ONNX ({first_line(error)}); export again") from None
        _check_fits(self._session, path, outputs, shape)
        self._outputs, self._path = outputs, path

    def __call__(self, source: np.ndarray, padding_mask: np.ndarray) -> Outputs:
        """See the module's text.

        Raises:
            UserError: it needs more memory than the limit, or cannot compute this.
        """
        try:
            return tuple(self._session.run(self._outputs, {"source": source, "padding_mask": padding_mask}))
        except Exception as error:  # onnxruntime has many exception types without a common base
            raise UserError(f"{self._path}: cannot be run ({first_line(error)}); use smaller batches") from None


def _check_fits(session: Any, path: Path, outputs: List[str], shape: Tuple[int, int]) -> None:
    """Check that a file has the inputs and outputs of its description."""
    for kind, wanted, its in (
        ("input", ["source", "padding_mask"], session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        missing = sorted(set(wanted) - {one.name for one in its})
        if missing:
            raise UserError(f"{path}: has no {kind} {missing[0]!r}, so it belongs to another model; export again")
    found = next(one.shape for one in session.get_inputs() if one.name == "source")
    # a free dimension is a name or None
    if len(found) != 3 or any(size != own for size, own in zip(found[1:], shape) if isinstance(size, int)):
        given = " x ".join(str(size) for size in found[1:])
        needed = " x ".join(map(str, shape))
        raise UserError(f"{path}: takes segments of {given}, not {needed} as in its config; copy the whole folder")


def _why(error: Exception) -> str:
    """The first line of torch's error for a message; empty if it only lists torch's device types."""
    text = first_line(error)
    return "" if text.startswith("Expected one of") else f" ({text})"


def _torch_device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # the second where torch was built without CUDA
        raise UserError(f"device {name!r}: cannot be used{_why(error)}; use cpu, cuda or cuda:0") from None


@contextlib.contextmanager
def _torch_threads(threads: Optional[int]) -> Iterator[None]:
    """Set torch's threads for this thread and for threads that start meanwhile."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _onnx_provider(device: str) -> Any:
    import onnxruntime

    if device == "auto":
        device = "cuda" if _ONNX_DEVICES["cuda"] in onnxruntime.get_available_providers() else "cpu"
    kind, _, number = device.partition(":")
    provider = _ONNX_DEVICES.get(kind)
    if provider is None or not (number or "0").isdigit():
        raise UserError(f"device {device!r}: an ONNX model runs on {' or '.join(_ONNX_DEVICES)}")
    if provider not in onnxruntime.get_available_providers():
        raise UserError(f"device {device!r}: this onnxruntime cannot use it; use cpu, or pip install onnxruntime-gpu")
    return (provider, {"device_id": number}) if number else provider
