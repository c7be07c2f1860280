"""An engine for Presidio that hands over the scores of entities; Presidio's own gives every spaCy entity 0.85.

engine = BertftNlpEngine(models=[{"lang_code": "en", "model_name": "training/model-best"}])
analyzer = AnalyzerEngine(nlp_engine=engine)
"""

from spacy.tokens import Doc

from spacy_bertft.components import spans  # noqa: F401  # registers the score of a span

try:
    from presidio_analyzer.nlp_engine import SpacyNlpEngine
except ImportError as error:
    raise ImportError(  # not one of ours: who tries whether a module can be imported catches this one
        f"spacy_bertft.presidio needs presidio-analyzer, which could not be imported ({error}). Expected Presidio's "
        "own package. Install it: pip install presidio-analyzer.",
        name=error.name,
    ) from error

__all__ = ["BertftNlpEngine"]


class BertftNlpEngine(SpacyNlpEngine):  # type: ignore[misc]  # Presidio has no types
    """Presidio's engine for spaCy, with `ent._.score`. Entities of other components keep Presidio's default score."""

    engine_name = "bertft"  # in Presidio's configuration files

    def _get_scores_for_entities(self, doc: Doc) -> list[float]:
        default = self.ner_model_configuration.default_score
        scores = (ent._.bertft_score for ent in doc.ents)
        return [default if score is None else score for score in scores]
