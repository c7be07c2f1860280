"""Encoders made smaller: the subwords that a corpus uses, and some of the layers."""
