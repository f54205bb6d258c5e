"""Edits of the weights, in memory or as checkpoints on disk that any engine serves at full speed."""
