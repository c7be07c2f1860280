"""Training encoders on raw text, by masked-language modelling."""
