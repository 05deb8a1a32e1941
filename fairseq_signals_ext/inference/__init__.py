"""Use of trained models: predictions and embeddings of recordings, and exports."""
