"""Engines, which run the encoder on a batch of windows."""
