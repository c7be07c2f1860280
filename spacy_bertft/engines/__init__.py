"""What runs a batch of windows."""
