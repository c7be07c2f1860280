"""Export a pipeline to ONNX Runtime or to transformers, and compare the result with the original.

from spacy_bertft.export import export, export_huggingface
report = export(Path("training/model-best"), Path("pipeline-onnx"), int8=True, dev=Path("corpus/dev.spacy"))
export_huggingface(Path("training/model-best"), Path("checkpoints"))
"""

from spacy_bertft.jobs.export.export import export
from spacy_bertft.jobs.export.report import Change, DroppedError, ExportReport, Hidden
from spacy_bertft.jobs.huggingface.write import Exported, export_huggingface

__all__ = ["Change", "DroppedError", "ExportReport", "Exported", "Hidden", "export", "export_huggingface"]
