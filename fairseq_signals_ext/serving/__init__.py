"""A small local HTTP service: an ECG file goes in, what a model says of it comes out."""
