"""Checkpoints of ours and of ECG-FM: reading them safely, describing them, and ECG-FM's own format."""
