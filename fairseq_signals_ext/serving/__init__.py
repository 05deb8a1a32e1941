"""A small local HTTP service: an ECG file goes in, a model's predictions for it come out."""
