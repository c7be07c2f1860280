"""The tasks that `bertft init` writes configs for: their heads, and what their configs say at the top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from spacy_bertft.errors import ConfigError

Kind = Literal["ner", "textcat", "textcat_multilabel", "pair", "qa", "regression", "spancat"]


@dataclass(frozen=True, slots=True)
class Head:
    """A component after the encoder. labels: an example of its own, where heads share the categories of the texts."""

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RecipeTask:
    """A task of `bertft init`.

    heads           in the order of the pipeline
    about           the first comment of its config
    weights         [training.score_weights]
    about_weights   the comment on them
    notes           further comments at the top
    ending          of the data files in the example command
    commands        what to run after the training
    """

    heads: tuple[Head, ...]
    about: str
    weights: Mapping[str, float | None]
    about_weights: str = ""
    notes: str = ""
    ending: str = "spacy"
    commands: tuple[str, ...] = ()

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of its heads."""
        return frozenset(head.kind for head in self.heads)

    @property
    def in_pairs(self) -> bool:
        """Whether its texts have two segments."""
        return not self.kinds.isdisjoint(("pair", "qa"))


_NER, _TEXTCAT = Head("ner", "ner"), Head("textcat", "textcat")
_MULTILABEL = Head("textcat_multilabel", "textcat_multilabel")
_OF_F = (
    "Of F at the threshold, over all categories (micro) and as their mean (macro). The AUC, spaCy's own cats_score, "
    "stays high even if no category reaches the threshold: it only says whether texts are in the right order."
)

TASKS: Mapping[str, RecipeTask] = {
    "ner": RecipeTask(
        (_NER,), "Named entities on a fine-tuned encoder: doc.ents, with ent._.score for each.", {"ents_f": 1.0}
    ),
    "textcat": RecipeTask(
        (_TEXTCAT,),
        "One category per text, on a fine-tuned encoder: scores in doc.cats that sum to 1.",
        {"cats_score": 1.0},
    ),
    "multilabel": RecipeTask(
        (_MULTILABEL,),
        "Any number of categories per text, on a fine-tuned encoder: independent scores in doc.cats.",
        {"cats_micro_f": 0.5, "cats_macro_f": 0.5, "cats_macro_auc": 0.0},
        _OF_F,
    ),
    "ner+textcat": RecipeTask(
        (_NER, _TEXTCAT),
        "Named entities and one category per text: two heads that train one encoder together.",
        {"ents_f": 0.5, "cats_score": 0.5},
    ),
    "ner+multilabel": RecipeTask(
        (_NER, _MULTILABEL),
        "Named entities and any number of categories per text: two heads that train one encoder together.",
        {"ents_f": 0.5, "cats_micro_f": 0.25, "cats_macro_f": 0.25, "cats_macro_auc": 0.0},
        _OF_F,
    ),
    "textcat+textcat": RecipeTask(
        (
            Head("sentiment", "textcat", ("positive", "negative")),
            Head("topic", "textcat", ("delivery", "product", "service")),
        ),
        "Two sets of categories on one fine-tuned encoder: one sentiment and one topic per text, both in doc.cats.",
        {"cats_score": 1.0},
        notes="Each head gets its labels in [initialize.components] below: put your own labels and names there. It "
        "ignores other labels, and texts with none of its own. The training texts have categories of both sets, in "
        'JSON Lines: {"text": "…", "labels": ["positive", "delivery"]}. With bertft_textcat_multilabel, a head allows '
        "any number of categories per text. During training, the scores shown are the last head's; the best model is "
        "chosen by them.",
    ),
    "intents": RecipeTask(
        (Head("slots", "ner"), Head("intent", "textcat")),
        "Intents and slots: two heads that train one encoder together. The intent is one category per text, or none of "
        "the known ones; slots are entities.",
        {"ents_f": 0.4, "cats_known_acc": 0.4, "cats_unknown_auc": 0.2},
        "Besides slots and known intents: how well unknown texts are separated from known ones before a threshold is "
        "fitted.",
        commands=("bertft calibrate training/model-best dev.spacy",),
    ),
    "pair": RecipeTask(
        (Head("pair", "pair"),),
        "One category per pair of texts (paraphrase, entailment), on a fine-tuned encoder: scores in doc.cats that sum "
        "to 1.",
        {"cats_score": 1.0},
        ending="tsv",
    ),
    "qa": RecipeTask(
        (Head("qa", "qa"),),
        'Answers to questions, as spans of a context or none, on a fine-tuned encoder: doc.spans["answers"].',
        {"answer_f": 1.0},
        ending="json",
    ),
    "regression": RecipeTask(
        (Head("regression", "regression"),),
        "One number per text, such as a rating, on a fine-tuned encoder: doc._.value.",
        {"value_pearson": 1.0, "value_spearman": 0.0, "value_mae": None, "value_rmse": None},
        notes='The files are JSON Lines, {"text": "…", "value": 3.5}, or tables (.csv, .tsv) with the columns text and '
        "value, or .spacy files that `bertft convert` made from them. For pairs of texts, "
        '{"first": "…", "second": "…", "value": 3.5}, set [nlp.tokenizer] @tokenizers = '
        '"spacy-bertft.PairTokenizer.v1", as in configs/pair.cfg.',
        ending="jsonl",
    ),
    "spancat": RecipeTask(
        (Head("spancat", "spancat"),),
        "Spans that may overlap or be nested, by spaCy's own spancat on a fine-tuned encoder: doc.spans, with the "
        'scores in the group\'s attrs["scores"].',
        {"spans_sc_f": 1.0},
    ),
}


def task_of(name: str) -> RecipeTask:
    """The task of a name. Raises a ConfigError for others."""
    if name not in TASKS:
        raise ConfigError(f"task: found {name!r}; expected one of {', '.join(TASKS)}; fix: choose one of them")
    return TASKS[name]
