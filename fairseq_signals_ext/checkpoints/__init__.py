"""Checkpoints of ours and of ECG-FM: reading them safely, what they say, and ECG-FM's own format."""
