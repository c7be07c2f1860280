"""spaCy components: the encoder, the heads, and what lies between them."""
