"""`bertft init`: a config for a task, an encoder and data."""
