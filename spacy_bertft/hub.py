"""Pipelines on the Hugging Face hub.

from spacy_bertft.hub import from_hub, push
push(Path("training/model-best"), "user/name", license="mit")
nlp = from_hub("user/name")
"""

from spacy_bertft.jobs.hub.load import from_hub
from spacy_bertft.jobs.hub.push import PushReport, push

__all__ = ["PushReport", "from_hub", "push"]
