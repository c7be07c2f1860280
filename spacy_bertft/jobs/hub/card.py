"""The model card of a pipeline: the README.md of its repository on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from spacy.language import Language

from spacy_bertft import __version__
from spacy_bertft.components.metric_kinds import kind_of, titled
from spacy_bertft.jobs.evaluate import shown_scores
from spacy_bertft.jobs.templates import templates

# The line by which a later push knows a card that a push wrote. Cards of people don't have it, and are kept.
CARD_MARK = "<!-- Written by bertft push. A later push writes it again; delete this line to keep your changes. -->"
_TEMPLATE = "card.md.jinja"
_TOKENS, _TEXTS, _ANSWERS = "token-classification", "text-classification", "question-answering"
# Factory -> the hub's name for the task, and the line of code that shows the result.
_SCORED_ENTITIES = "print([(ent.text, ent.label_, ent._.score) for ent in doc.ents])"
_CATEGORIES = "print(doc.cats)"
_TASKS = {
    "bertft_ner": (_TOKENS, _SCORED_ENTITIES),
    "bertft_textcat": (_TEXTS, _CATEGORIES),
    "bertft_textcat_multilabel": (_TEXTS, _CATEGORIES),
    "bertft_pair": (_TEXTS, _CATEGORIES),
    "bertft_regression": (_TEXTS, "print(doc._.value)"),
    "bertft_qa": (_ANSWERS, 'print([(span.text, span._.score) for span in doc.spans["answers"]])'),
    "bertft_mlm": ("fill-mask", 'print([span._.candidates for span in doc.spans["masks"]])'),
    "ner": (_TOKENS, "print([(ent.text, ent.label_) for ent in doc.ents])"),
    "spancat": (_TOKENS, "print(doc.spans)"),
    "tagger": (_TOKENS, "print([(token.text, token.tag_) for token in doc])"),
    "textcat": (_TEXTS, _CATEGORIES),
    "textcat_multilabel": (_TEXTS, _CATEGORIES),
}
# Start of a score's name -> the hub's name for the task; end of it -> the hub's name for the metric.
_TASK_OF_SCORE = {"cats": _TEXTS, "value": _TEXTS, "answer": _ANSWERS}
_METRICS = {
    "p": "precision",
    "r": "recall",
    "f": "f1",
    "acc": "accuracy",
    "auc": "roc_auc",
    "em": "exact_match",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mae": "mae",
    "rmse": "rmse",
}
_PARTS = {"p", "r", "f"}


def render_card(nlp: Language, repo: str, *, license: str, base_models: Sequence[str]) -> str:
    """The card of a pipeline, in Markdown after the hub's metadata in YAML.

    repo: user/name; license: the hub's identifier, such as "mit"; base_models: hub names of the pretrained encoders.
    """
    factories = {name: nlp.get_pipe_meta(name).factory for name in nlp.component_names}
    tasks = [_TASKS[factory] for factory in factories.values() if factory in _TASKS]
    performance = {
        name: value
        for name, value in nlp.meta.get("performance", {}).items()
        if name not in {f"{component}_loss" for component in factories}
    }
    environment = templates("spacy_bertft.jobs.hub")
    environment.filters["cell"] = _cell
    doc = _input(factories.values())
    labels = nlp.meta["labels"]
    return environment.get_template(_TEMPLATE).render(
        metadata=_metadata(nlp, repo, license, base_models, [task for task, _ in tasks], performance),
        mark=CARD_MARK,
        title=repo.partition("/")[2],
        description=nlp.meta.get("description") or "A spaCy pipeline on a fine-tuned BERT encoder.",
        needs=_needs(nlp),
        imports=", ".join(["from_hub", *(name for name in ("pair_doc", "question_doc") if name in doc)]),
        repo=repo,
        input=doc,
        usage=list(dict.fromkeys(line for _, line in tasks)),
        components=[(name, factory, labels.get(name, ())) for name, factory in factories.items()],
        scores=[(titled(name), f"{value:.2f}") for name, value in shown_scores(performance).overall.items()],
        of_labels=list(_label_tables(performance)),
        notes=nlp.meta.get("notes") or "",
    )


def _metadata(
    nlp: Language,
    repo: str,
    license: str,
    base_models: Sequence[str],
    tasks: Sequence[str],
    performance: Mapping[str, Any],
) -> str:
    """The hub's metadata, as YAML. Scores in it are fractions, as spaCy has them."""
    name = repo.partition("/")[2]
    results = [
        EvalResult(
            task_type=_TASK_OF_SCORE.get(score.partition("_")[0], _TOKENS),
            dataset_type="development",
            dataset_name="development texts of the training",
            metric_type=_METRICS[score.rpartition("_")[2]],
            metric_name=score,
            metric_value=round(float(value), 6),
        )
        for score, value in performance.items()
        if isinstance(value, int | float) and score.rpartition("_")[2] in _METRICS
    ]
    data = ModelCardData(
        language="multilingual" if nlp.lang == "xx" else nlp.lang,
        license=license,
        # Not "spacy": for that library, the hub shows a command that installs a wheel, which the repository lacks.
        library_name="spacy-bertft",
        tags=list(dict.fromkeys(["spacy-bertft", *tasks])),
        pipeline_tag=tasks[0] if tasks else None,
        base_model=(list(base_models) if len(base_models) > 1 else base_models[0]) if base_models else None,
        model_name=name,
        eval_results=results or None,
    )
    if not results:
        data.pop("model_name")
    return data.to_yaml()


def _input(factories: Any) -> str:
    """What the example's pipeline is called with, as code."""
    if "bertft_qa" in factories:
        return 'question_doc(nlp, "A question?", nlp.make_doc("The text that may answer it."))'
    return 'pair_doc(nlp, "A text.", "Another text.")' if "bertft_pair" in factories else '"A text of your own"'


def _needs(nlp: Language) -> str:
    models = (settings.get("model") for settings in nlp.config["components"].values())
    on_onnx = any(isinstance(model, Mapping) and model.get("backend") == "onnxruntime" for model in models)
    return f"spaCy {nlp.meta['spacy_version']} and spacy-bertft{'[onnx]' if on_onnx else ''} {__version__} or later"


def _label_tables(performance: Mapping[str, Any]) -> Iterator[tuple[str, list[list[str]]]]:
    """Each score that has precision, recall and F-score for single labels, with a row per label."""
    for name, of_labels in performance.items():
        values = of_labels.values() if isinstance(of_labels, Mapping) else (None,)
        if all(isinstance(one, Mapping) and set(one) >= _PARTS for one in values):
            factor = kind_of(name).factor
            yield name, [[label, *_figures(of_labels[label], factor)] for label in sorted(of_labels)]


def _figures(of_label: Mapping[str, float | None], factor: float) -> Iterator[str]:
    for part in ("p", "r", "f"):
        value = of_label[part]
        yield "" if value is None else f"{value * factor:.2f}"


def _cell(text: object) -> str:
    """Text for a cell of a table in Markdown."""
    return re.sub(r"([|`])", r"\\\1", " ".join(str(text).split()))
