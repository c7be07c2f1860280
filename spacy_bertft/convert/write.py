"""Records to Docs, and Docs to .spacy files that appear only once all of them are complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span

from spacy_bertft.convert.records import Entity, Record, brief, data_error
from spacy_bertft.convert.report import MAX_EXAMPLES, Misaligned, Tally
from spacy_bertft.errors import ConfigError


def blank(lang: str) -> Language:
    """spaCy's pipeline with nothing but the tokenizer of a language."""
    try:
        return spacy.blank(lang)
    except ImportError as err:
        raise ConfigError(
            f"lang: found that spacy.blank({lang!r}) fails ({err}); "
            "expected the code of a language that spaCy can set up; fix: install what is missing there, or "
            "choose another (--lang), such as 'en' or 'xx' (any)"
        ) from err


def make_doc(record: Record, nlp: Language, labels: Sequence[str], tally: Tally) -> Doc:
    """One Doc with the record's entities and categories; `labels` are all categories of all inputs."""
    doc = Doc(nlp.vocab, words=list(record.words)) if record.words else _tokenize(record, nlp.tokenizer)
    if record.spans is not None:
        _set_entities(doc, record.spans, record.where, tally)
    if record.form == "cats":
        doc.cats = dict(record.cats or {})
    elif record.form is not None:
        doc.cats = {label: float(label in record.chosen) for label in labels}
    for category, value in doc.cats.items():
        tally.categories[category] += value >= 0.5
    return doc


def _tokenize(record: Record, tokenizer: Callable[[str], Doc]) -> Doc:
    """The text's tokens; not by `nlp.make_doc`, which refuses texts over `nlp.max_length`."""
    doc = tokenizer(record.text)
    if doc.text != record.text:
        raise data_error(
            record.where,
            found=f"a text that this language's tokenizer changes, {brief(record.text)}",
            expected="a tokenizer that keeps every character, so that offsets hold",
            fix="set lang (--lang) to 'xx'",
        )
    return doc


def _set_entities(doc: Doc, entities: Sequence[Entity], where: str, tally: Tally) -> None:
    """Set doc.ents; tokens that a misaligned entity touches become missing annotation, for they aren't O."""
    aligned: list[Span] = []
    missing: set[int] = set()
    for entity in entities:
        span = doc.char_span(entity.start, entity.end, label=entity.label)
        if span is not None:
            aligned.append(span)
            tally.entities[entity.label] += 1
            continue
        touched = [token for token in doc if token.idx < entity.end and entity.start < token.idx + len(token)]
        missing.update(token.i for token in touched)
        tally.misaligned += 1
        if len(tally.examples) < MAX_EXAMPLES:
            piece = doc.text[entity.start : entity.end]
            tally.examples.append(Misaligned(where, piece, entity.label, tuple(token.text for token in touched)))
    doc.set_ents(aligned, missing=[doc[i : i + 1] for i in sorted(missing)], default="outside")


@contextmanager
def staged(targets: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary names beside the targets; renamed to them if the block succeeds, deleted if it does not."""
    temporary = [target.with_name(f".{target.name}.{os.getpid()}.tmp") for target in targets]
    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for name, target in zip(temporary, targets, strict=True):
            os.replace(name, target)
    except OSError as err:
        raise ConfigError(
            f"{targets[0].parent}: found an output that can't be written ({err.strerror}); "
            "expected a folder to write to; fix: check the path, its permissions and the free space"
        ) from err
    finally:
        for name in temporary:
            with suppress(OSError):  # it isn't there, or its folder isn't
                name.unlink()
