"""Texts -> subwords, windows, batches. Numpy and tokenizers only."""
