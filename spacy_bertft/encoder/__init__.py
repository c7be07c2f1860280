"""The encoder: at rest, loaded, and from texts to features."""
