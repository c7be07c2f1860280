"""Loggers of a training run: what each step was like, how long the rest takes, and where it is shown and kept."""
