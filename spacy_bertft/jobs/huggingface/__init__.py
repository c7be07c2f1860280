"""Fine-tuned Hugging Face checkpoints with their heads: import and export."""
