"""spaCy components: the encoder, the heads, and the code that connects them."""
