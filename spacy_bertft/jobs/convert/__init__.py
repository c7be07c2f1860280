"""Annotated files to spaCy's binary training format."""
