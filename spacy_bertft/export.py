"""Export a pipeline to ONNX Runtime and compare the result with the original.

from spacy_bertft.export import export
report = export(Path("training/model-best"), Path("pipeline-onnx"), int8=True, dev=Path("corpus/dev.spacy"))
"""

from spacy_bertft.jobs.export.export import export
from spacy_bertft.jobs.export.report import Change, DroppedError, ExportReport, Hidden

__all__ = ["Change", "DroppedError", "ExportReport", "Hidden", "export"]
