"""Annotated files (JSONL, CSV, TSV, CoNLL) to spaCy's binary training format.

from spacy_bertft.convert import convert
report = convert([Path("train.jsonl"), Path("dev.jsonl")], Path("corpus"))
"""

from spacy_bertft.convert.report import Counts as Counts
from spacy_bertft.convert.report import FileReport as FileReport
from spacy_bertft.convert.report import Misaligned as Misaligned
from spacy_bertft.convert.report import Report as Report
from spacy_bertft.convert.run import Format as Format
from spacy_bertft.convert.run import Progress as Progress
from spacy_bertft.convert.run import convert as convert
