"""Make trained pipelines and encoders smaller: the subwords that a corpus uses, and some of the layers.

from spacy_bertft.shrink import shrink
report = shrink("training/model-best", Path("small"), corpus=[Path("corpus/train.spacy")], dev=Path("corpus/dev.spacy"))
"""

from spacy_bertft.jobs.shrink.corpus import Changed
from spacy_bertft.jobs.shrink.report import ShrinkReport, Shrunk
from spacy_bertft.jobs.shrink.shrink import shrink

__all__ = ["Changed", "ShrinkReport", "Shrunk", "shrink"]
