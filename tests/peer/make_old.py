"""Trains small pipelines with spacy-transformers, for test_migrate.py: python tests/peer/make_old.py OUT.

Run where spacy-transformers is installed. Writes OUT/<name>/old, a saved pipeline, and OUT/<name>/want.json, what it
says of some texts. The same every time.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import spacy
import tiny
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import fix_random_seed

FAMILIES = ("bert-uncased", "bert-cased", "roberta", "distilbert", "electra")
STEPS = 60
# Each token as word/tag/part of speech/head/dependency; each entity as first token, one behind the last, label.
TREEBANK = [
    (
        "Anna/NNP/PROPN/1/nsubj lives/VBZ/VERB/1/ROOT in/IN/ADP/1/prep Berlin/NNP/PROPN/2/pobj ./././1/punct",
        [(0, 1, "PERSON"), (3, 4, "CITY")],
        "home",
    ),
    (
        "Bob/NNP/PROPN/1/compound Stone/NNP/PROPN/2/nsubj went/VBD/VERB/2/ROOT to/IN/ADP/2/prep "
        "Rome/NNP/PROPN/3/pobj ./././2/punct",
        [(0, 2, "PERSON"), (4, 5, "CITY")],
        "work",
    ),
    (
        "The/DT/DET/2/det old/JJ/ADJ/2/amod garden/NN/NOUN/3/nsubj sleeps/VBZ/VERB/3/ROOT ./././3/punct",
        [],
        "home",
    ),
    (
        "Clara/NNP/PROPN/1/nsubj met/VBD/VERB/1/ROOT Bob/NNP/PROPN/1/dobj in/IN/ADP/1/prep the/DT/DET/5/det "
        "office/NN/NOUN/3/pobj ./././1/punct",
        [(0, 1, "PERSON"), (2, 3, "PERSON")],
        "work",
    ),
]
LONG = "The old garden in Berlin sleeps , and Anna went to Rome ; Bob Stone met Clara in the office . "
TEXTS = [
    "Anna lives in Berlin.",
    "Bob Stone went to Rome, and Clara met Anna in the old office.",
    "garden",
    "",
    " ",
    "\n\t \n",
    "Anna \n lives  in Berlin .",
    "Anna lives in Berlin ",
    "Das Mädchen läuft nach München; Мама мыла раму. 東京は日本の首都です",
    "e\u0301te\u0301 \u200bAnna\u200d 👩‍👩‍👧 Berlin",
    "?!... -- (“Rome”) , ;",
    "gimme the garden, Bob's office & Anna-Clara's house!",
    " ".join((LONG * 6).split()[:100]),
]


def blank(encoder: Path, name: str = "transformer") -> Language:
    """A pipeline with a transformer."""
    nlp = spacy.blank("en")
    spans = {"@span_getters": "spacy-transformers.strided_spans.v1", "window": 128, "stride": 96}
    model = {
        "@architectures": "spacy-transformers.TransformerModel.v3",
        "name": str(encoder),
        "tokenizer_config": {"use_fast": True},
        "get_spans": spans,
    }
    nlp.add_pipe("transformer", name=name, config={"model": model})
    return nlp


def add_reader(nlp: Language, factory: str, *, pooling: str = "mean", name: str | None = None, **listener: Any) -> None:
    """Add one of spaCy's components on a listener."""
    config: dict[str, Any] = {"model": dict(nlp.get_factory_meta(factory).default_config["model"])}
    if factory == "textcat":
        config["model"] = {
            "@architectures": "spacy.TextCatReduce.v1",
            "exclusive_classes": True,
            "use_reduce_first": False,
            "use_reduce_last": False,
            "use_reduce_max": True,
            "use_reduce_mean": True,
        }
    if factory == "spancat":
        config["suggester"] = {"@misc": "spacy.ngram_suggester.v1", "sizes": [1, 2, 3]}
    config["model"]["tok2vec"] = {
        "@architectures": "spacy-transformers.TransformerListener.v1",
        "grad_factor": 1.0,
        "pooling": {"@layers": f"reduce_{pooling}.v1"},
        **listener,
    }
    nlp.add_pipe(factory, name=name, config=config)


def usual(encoder: Path) -> Language:
    """A transformer, and all of spaCy's components that are usual on one."""
    nlp = blank(encoder)
    for factory in ("tagger", "morphologizer", "parser", "ner", "textcat", "spancat"):
        add_reader(nlp, factory)
    return nlp


def with_heads(encoder: Path) -> Language:
    """Heads of this package on a transformer, beside a component on a listener."""
    nlp = blank(encoder)
    nlp.add_pipe("bertft_ner", name="ner")
    add_reader(nlp, "tagger")
    nlp.add_pipe("bertft_textcat", name="textcat")
    return nlp


def varied(encoder: Path) -> Language:
    """Other names, settings and components, before, behind and disabled."""
    nlp = blank(encoder, "trf")
    nlp.add_pipe("sentencizer", first=True)
    add_reader(nlp, "tagger", pooling="first", grad_factor=0.5, upstream="trf")
    add_reader(nlp, "ner", pooling="first", name="names", upstream="trf")
    nlp.add_pipe("entity_ruler")
    add_reader(nlp, "spancat", name="off")
    add_reader(nlp, "textcat_multilabel", grad_factor=0.0)  # spacy-transformers can train it at the end only
    nlp.tokenizer.add_special_case("gimme", [{"ORTH": "gim"}, {"ORTH": "me"}])
    nlp.vocab.strings.add("a string of its own")
    nlp.vocab.set_vector("garden", np.arange(4, dtype="f"))
    nlp.meta.update(
        name="peculiar",
        version="1.2.3",
        description="For a test",
        author="Someone",
        license="MIT",
        requirements=["spacy-transformers>=1.4,<1.5", "Spacy_Transformers", "tabulate>=0.8"],
    )
    return nlp


def examples(nlp: Language) -> Iterator[Example]:
    for line, entities, category in TREEBANK:
        words, tags, parts, heads, deps = zip(*(token.split("/") for token in line.split()), strict=True)
        doc = Doc(nlp.vocab, words=words)
        spans = [(doc[start:end].start_char, doc[start:end].end_char, label) for start, end, label in entities]
        annotation = {
            "words": list(words),
            "tags": list(tags),
            "pos": ["PUNCT" if part == "." else part for part in parts],
            "morphs": ["Number=Sing" if part in ("PROPN", "NOUN") else "_" for part in parts],
            "heads": [int(head) for head in heads],
            "deps": list(deps),
            "entities": spans,
            "cats": {"home": float(category == "home"), "work": float(category == "work")},
            "spans": {"sc": spans},
        }
        yield Example.from_dict(doc, annotation)


def train(nlp: Language) -> None:
    fix_random_seed(0)
    optimizer = nlp.initialize(lambda: list(examples(nlp)) * 40)  # the parser leaves rare labels out
    optimizer.learn_rate = 3e-3
    for _ in range(STEPS):
        nlp.update(list(examples(nlp)), sgd=optimizer)


def said(nlp: Language, text: str) -> dict[str, Any]:
    """What a pipeline says of a text."""
    doc = nlp(text)
    spans = {
        key: {
            "spans": [[span.start, span.end, span.label_] for span in group],
            "scores": [float(score) for score in group.attrs.get("scores", ())],
        }
        for key, group in doc.spans.items()
    }
    document = doc.to_json()
    return {"doc": {**document, "spans": {}, "cats": {}}, "cats": doc.cats, "spans": spans}


def save(nlp: Language, folder: Path, texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nlp.to_disk(folder / "old")
    want = [said(nlp, text) for text in texts]
    (folder / "want.json").write_text(json.dumps(want, indent=1), encoding="utf-8")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tiny.LIMIT = 512  # the long text in one span
    with TemporaryDirectory() as name:
        for family in FAMILIES:
            nlp = usual(tiny.make_encoder(Path(name) / family, family))
            train(nlp)
            # Bytes have a subword for a space at the end, which spacy-transformers does not show to the encoder.
            save(nlp, out / family, [text for text in TEXTS if family != "roberta" or text[-2:] != "n "])
        nlp = with_heads(Path(name) / "bert-uncased")
        train(nlp)
        # An empty text is two special subwords to our encoder, and nothing at all to spacy-transformers.
        save(nlp, out / "heads", [text for text in TEXTS if text])
        nlp = varied(Path(name) / "bert-cased")
        train(nlp)
        nlp.get_pipe("entity_ruler").add_patterns([{"label": "PLACE", "pattern": [{"LOWER": "garden"}]}])
        nlp.disable_pipe("off")
        # spacy-transformers can't take the first subword of a token that has none.
        save(nlp, out / "varied", [text for text in TEXTS if text.isprintable() and " " not in (text, text[:1])])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
