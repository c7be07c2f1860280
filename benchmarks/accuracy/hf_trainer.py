"""The Hugging Face side of compare.py: token and sequence classification with the Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import scores
import torch
from spacy.tokens import Doc
from spacy.training import biluo_tags_to_spans, iob_to_biluo
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from spacy_bertft.encoder.loading import find_folder

IGNORED = -100


@dataclass(frozen=True)
class Recipe:
    """What both sides share."""

    encoder: str
    rate: float
    epochs: int
    batch_size: int
    steps: int | None = None  # instead of epochs

    def n_steps(self, n_texts: int) -> int:
        """The steps of a training on so many texts."""
        return self.steps or -(-n_texts // self.batch_size) * self.epochs


def run(
    train: list[Doc], others: dict[str, list[Doc]], recipe: Recipe, seed: int, folder: Path
) -> dict[str, list[Doc]]:
    """Train on `train`; predicted copies of the other sets."""
    trainer, side = build(train, recipe, seed, folder)
    trainer.train()
    return predict(trainer, side, others)


def build(
    train: list[Doc], recipe: Recipe, seed: int, folder: Path, **settings: Any
) -> tuple[Trainer, Categories | Entities]:
    """A Trainer for these texts, and what turns Docs into its features. settings: more TrainingArguments."""
    set_seed(seed)
    source = str(find_folder(recipe.encoder) or recipe.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    side = side_of(tokenizer, train)
    model = side.model.from_pretrained(source, num_labels=len(side.names), dtype=torch.float32, **side.settings)
    features = [side.features(doc) for doc in train]
    trainer = Trainer(
        model=model,
        args=arguments(recipe, len(features), seed, folder, **settings),
        train_dataset=features,
        data_collator=side.collator,
    )
    return trainer, side


def predict(trainer: Trainer, side: Categories | Entities, others: dict[str, list[Doc]]) -> dict[str, list[Doc]]:
    """Predicted copies of Docs."""
    return {
        name: side.annotate(docs, trainer.predict([side.features(doc) for doc in docs]))
        for name, docs in others.items()
    }


def side_of(tokenizer: Any, train: list[Doc]) -> Categories | Entities:
    """What turns such Docs into features, and logits into annotations."""
    if not train[0].cats:
        return Entities(tokenizer, train)
    return (Categories if scores.exclusive(train) else IndependentCategories)(tokenizer, train)


def arguments(recipe: Recipe, n_features: int, seed: int, folder: Path, **settings: Any) -> TrainingArguments:
    """What the recipe means to the Trainer, for so many things to learn on."""
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=recipe.rate,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=32,
        warmup_steps=recipe.n_steps(n_features) // 10,
        weight_decay=0.01,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )


class Categories:
    """Sequence classification of one category a text, or a pair of texts."""

    model = AutoModelForSequenceClassification
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, tokenizer: Any, train: Iterable[Doc]) -> None:
        self.tokenizer = tokenizer
        self.names = sorted(train[0].cats)
        self.collator = DataCollatorWithPadding(tokenizer)

    def features(self, doc: Doc) -> dict[str, Any]:
        texts = [span.text for span in doc.spans["segments"]] if "segments" in doc.spans else [doc.text]
        return {**self.tokenizer(*texts, truncation=True, max_length=512), "labels": self._target(doc)}

    def _target(self, doc: Doc) -> Any:
        label = max(doc.cats, key=doc.cats.get)
        # A label that the training data lacks can't be predicted; in dev and test its target is not used.
        return self.names.index(label) if label in self.names else 0

    def annotate(self, docs: list[Doc], output: Any) -> list[Doc]:
        copies = [Doc(doc.vocab, words=[token.text for token in doc]) for doc in docs]
        for copy, logits in zip(copies, output.predictions, strict=True):
            copy.cats = dict(zip(self.names, self._values(logits), strict=True))
        return copies

    def _values(self, logits: Any) -> list[float]:
        """Of which the highest is the prediction."""
        return [float(logit) for logit in logits]


class IndependentCategories(Categories):
    """Sequence classification of any number of categories a text."""

    settings: ClassVar[dict[str, Any]] = {"problem_type": "multi_label_classification"}

    def _target(self, doc: Doc) -> Any:
        return [float(doc.cats.get(name, 0.0)) for name in self.names]

    def _values(self, logits: Any) -> list[float]:
        """The probability of each category."""
        return [1 / (1 + math.exp(-logit)) for logit in logits]


class Entities:
    """Token classification by IOB2 tags on each token's first subword."""

    model = AutoModelForTokenClassification
    settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, tokenizer: Any, train: Iterable[Doc]) -> None:
        self.tokenizer = tokenizer
        labels = sorted({ent.label_ for doc in train for ent in doc.ents})
        self.names = ["O", *(f"{prefix}-{label}" for label in labels for prefix in "BI")]
        self.collator = DataCollatorForTokenClassification(tokenizer)

    def features(self, doc: Doc) -> dict[str, Any]:
        encoding = self._encode(doc)
        tags = [f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O" for token in doc]
        labels, seen = [], set()
        for word in encoding.word_ids():
            # A label that the training data lacks can't be predicted; in dev and test its target is not used.
            known = word is not None and word not in seen and tags[word] in self.names
            labels.append(self.names.index(tags[word]) if known else IGNORED)
            seen.add(word)
        return {**encoding, "labels": labels}

    def annotate(self, docs: list[Doc], output: Any) -> list[Doc]:
        copies = []
        for doc, logits in zip(docs, output.predictions, strict=True):
            tags = ["O"] * len(doc)
            word_ids = enumerate(self._encode(doc).word_ids())
            for place, word in reversed(list(word_ids)):  # a token's first subword is written last
                if word is not None:
                    tags[word] = self.names[int(logits[place].argmax())]
            copy = Doc(doc.vocab, words=[token.text for token in doc])
            copy.ents = biluo_tags_to_spans(copy, iob_to_biluo(tags))
            copies.append(copy)
        return copies

    def _encode(self, doc: Doc) -> Any:
        words = [token.text for token in doc]
        return self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=512)
