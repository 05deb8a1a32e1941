"""Many fine-tunings through the real commands, and their comparison."""
