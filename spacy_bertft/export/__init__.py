"""A pipeline for ONNX Runtime, and how it compares with the one it was made from.

from spacy_bertft.export import export
report = export(Path("training/model-best"), Path("pipeline-onnx"), int8=True, dev=Path("corpus/dev.spacy"))
"""

from spacy_bertft.export.report import Change as Change
from spacy_bertft.export.report import DroppedError as DroppedError
from spacy_bertft.export.report import ExportReport as ExportReport
from spacy_bertft.export.report import Hidden as Hidden
from spacy_bertft.export.run import export as export
