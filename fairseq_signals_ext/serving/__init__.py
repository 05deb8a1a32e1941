"""A small local HTTP service: it receives an ECG file and returns a model's predictions."""
