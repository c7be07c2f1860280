"""The Hugging Face side of compare.py: token and sequence classification with the Trainer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def run(
    train: list[Doc], others: dict[str, list[Doc]], recipe: Recipe, seed: int, folder: Path
) -> dict[str, list[Doc]]:
    """Train on `train`; predicted copies of the other sets."""
    set_seed(seed)
    source = str(find_folder(recipe.encoder) or recipe.encoder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    side = Categories(tokenizer, train) if train[0].cats else Entities(tokenizer, train)
    model = side.model.from_pretrained(source, num_labels=len(side.names), dtype=torch.float32)
    features = [side.features(doc) for doc in train]
    trainer = Trainer(
        model=model,
        args=arguments(recipe, len(features), seed, folder),
        train_dataset=features,
        data_collator=side.collator,
    )
    trainer.train()
    return {
        name: side.annotate(docs, trainer.predict([side.features(doc) for doc in docs]))
        for name, docs in others.items()
    }


def arguments(recipe: Recipe, n_features: int, seed: int, folder: Path) -> TrainingArguments:
    """What the recipe means to the Trainer, for so many things to learn on."""
    steps = -(-n_features // recipe.batch_size) * recipe.epochs
    return TrainingArguments(
        output_dir=str(folder),
        learning_rate=recipe.rate,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=32,
        warmup_steps=steps // 10,
        weight_decay=0.01,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )


class Categories:
    """Sequence classification of one category a text, or a pair of texts."""

    model = AutoModelForSequenceClassification

    def __init__(self, tokenizer: Any, train: Iterable[Doc]) -> None:
        self.tokenizer = tokenizer
        self.names = sorted(train[0].cats)
        self.collator = DataCollatorWithPadding(tokenizer)

    def features(self, doc: Doc) -> dict[str, Any]:
        texts = [span.text for span in doc.spans["segments"]] if "segments" in doc.spans else [doc.text]
        encoding = self.tokenizer(*texts, truncation=True, max_length=512)
        label = max(doc.cats, key=doc.cats.get)
        # A label that the training data lacks can't be predicted; in dev and test its target is not used.
        return {**encoding, "labels": self.names.index(label) if label in self.names else 0}

    def annotate(self, docs: list[Doc], output: Any) -> list[Doc]:
        copies = [Doc(doc.vocab, words=[token.text for token in doc]) for doc in docs]
        for copy, logits in zip(copies, output.predictions, strict=True):
            copy.cats = dict(zip(self.names, map(float, logits), strict=True))
        return copies


class Entities:
    """Token classification by IOB2 tags on each token's first subword."""

    model = AutoModelForTokenClassification

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
