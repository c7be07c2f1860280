"""`bertft train`: spaCy's training with checkpoints, so that a run that was stopped can be resumed."""
