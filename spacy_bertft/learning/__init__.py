"""Which weights learn, at what rate, and what they learn."""
