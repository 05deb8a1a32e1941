"""Frozen features of several models, probes on public tasks, and which model is better, by how much, how sure."""
