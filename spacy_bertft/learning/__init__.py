"""Training: losses, the optimizer, and which weights are trained at what learning rate."""
