"""Pipelines on the Hugging Face hub: pushing one with a model card, and loading it from there."""
