"""Convert annotated files of many formats to spaCy's binary training format, and back for annotation tools.

from spacy_bertft.convert import convert
report = convert([Path("train.jsonl"), Path("dev.jsonl")], Path("corpus"))
"""

from spacy_bertft.jobs.convert.convert import convert
from spacy_bertft.jobs.convert.options import FormatName as Format
from spacy_bertft.jobs.convert.options import TargetName as Target
from spacy_bertft.jobs.convert.survey import Progress
from spacy_bertft.jobs.convert.tally import Counts, FileReport, Misaligned, Report

__all__ = ["Counts", "FileReport", "Format", "Misaligned", "Progress", "Report", "Target", "convert"]
