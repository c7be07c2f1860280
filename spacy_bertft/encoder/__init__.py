"""The encoder: saving, loading, and the forward pass from texts to features."""
