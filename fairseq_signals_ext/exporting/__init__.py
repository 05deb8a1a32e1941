"""Models for people without fairseq: safetensors, TorchScript, ONNX, and ECG-FM's own format, each verified."""
