"""Convert annotated files (JSONL, CSV, TSV, CoNLL, SQuAD) to spaCy's binary training format.

from spacy_bertft.convert import convert
report = convert([Path("train.jsonl"), Path("dev.jsonl")], Path("corpus"))
"""

from spacy_bertft.jobs.convert.convert import Format, Progress, convert
from spacy_bertft.jobs.convert.tally import Counts, FileReport, Misaligned, Report

__all__ = ["Counts", "FileReport", "Format", "Misaligned", "Progress", "Report", "convert"]
