"""What a checkpoint says of recordings."""
