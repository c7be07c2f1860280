"""Conversion of annotated files to spaCy's binary training format."""
