"""Frozen features of several models, probes on public tasks, and comparisons of models with intervals."""
