"""Conversion of records to Docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup, Token

from spacy_bertft.components.doc_values import set_value
from spacy_bertft.components.pairs import SEGMENTS_KEY, SEPARATOR, pair_doc
from spacy_bertft.errors import ConfigError, data_error
from spacy_bertft.jobs.convert.offsets import OTHERS, in_characters
from spacy_bertft.jobs.convert.options import Options
from spacy_bertft.jobs.convert.records import Answer, Entity, Record, brief
from spacy_bertft.jobs.convert.tally import MAX_EXAMPLES, Misaligned, Tally
from spacy_bertft.tasks.scorers import ANSWERS_KEY


def blank(lang: str) -> Language:
    """Create a spaCy pipeline with only the tokenizer of a language."""
    try:
        return spacy.blank(lang)
    except ImportError as err:
        raise ConfigError(
            f"lang: found that spacy.blank({lang!r}) fails ({err}); "
            "expected the code of a language that spaCy can set up; fix: install what is missing there, or "
            "choose another (--lang), such as 'en' or 'xx' (any)"
        ) from err


def split(record: Record, nlp: Language) -> Doc:
    """Make a Doc of a record's tokens, and its segments if it has two texts."""
    if record.words:
        return Doc(nlp.vocab, words=list(record.words), spaces=list(record.spaces) or None)
    if record.second is None:
        return _tokenize(record.text, nlp.tokenizer, record.where)
    return _pair(record.text, record.second, nlp, record.where)


def annotate(doc: Doc, record: Record, labels: Sequence[str], options: Options, tally: Tally) -> Doc:
    """Set the record's annotations on the Doc; `labels` are the categories of all inputs."""
    if record.spans is not None and options.span_group:
        doc.spans[options.span_group] = _group(doc, options.span_group, record.spans, record, tally)
    elif record.spans is not None:
        _set_entities(doc, record.spans, record, tally)
    if record.incorrect:
        doc.spans[options.incorrect_group] = _group(doc, options.incorrect_group, record.incorrect, record, tally)
        tally.incorrect += len(doc.spans[options.incorrect_group])
    if record.answers is not None:
        _set_answers(doc, record.answers, record.where, tally)
    if record.form == "cats":
        doc.cats = dict(record.cats or {})
    elif record.form is not None:
        doc.cats = {label: float(label in record.chosen) for label in labels}
    for category, score in doc.cats.items():
        tally.categories[category] += score >= 0.5
    set_value(doc, record.value)
    if record.value is not None:
        tally.add_value(record.value)
    return doc


def _pair(first: str, second: str, nlp: Language, where: str) -> Doc:
    if SEPARATOR in first:
        raise data_error(
            where,
            found=f"a tab in the first of two texts, {brief(first)}",
            expected="none, since the first tab of a Doc separates its two texts",
            fix="write a space there",
        )
    return pair_doc(nlp, *(_tokenize(text, nlp.tokenizer, where) for text in (first, second)))


def _tokenize(text: str, tokenizer: Callable[[str], Doc], where: str) -> Doc:
    """Tokenize a text without `nlp.make_doc`, which refuses texts over `nlp.max_length`."""
    doc = tokenizer(text)
    if doc.text != text:
        raise data_error(
            where,
            found=f"a text that this language's tokenizer changes, {brief(text)}",
            expected="a tokenizer that keeps every character, so that offsets hold",
            fix="set lang (--lang) to 'xx'",
        )
    return doc


def _set_answers(doc: Doc, answers: Sequence[Answer], where: str, tally: Tally) -> None:
    """Set doc.spans["answers"], on whole tokens; the annotated strings stay in its attrs, for the scorer."""
    _, context = doc.spans[SEGMENTS_KEY]
    starts = [context.start_char + answer.start for answer in answers]
    found = (
        doc.char_span(start, start + len(answer.text), label="ANSWER", alignment_mode="expand")
        for start, answer in zip(starts, answers, strict=True)
    )
    spans = [span for span in found if span is not None]  # drops none: each has a character in some token
    doc.spans[ANSWERS_KEY] = SpanGroup(
        doc, name=ANSWERS_KEY, attrs={"texts": [answer.text for answer in answers]}, spans=spans
    )
    tally.answered += bool(answers)
    tally.unanswered += not answers
    widened = any(span.text != one.text for span, one in zip(spans, answers, strict=True))
    if widened:
        tally.check_loss("an answer that begins or ends inside a token", where)
    tally.widened += widened


def _group(doc: Doc, name: str, spans: Sequence[Entity], record: Record, tally: Tally) -> SpanGroup:
    """The spans that align with tokens, as a group."""
    found = (_aligned(doc, span, record, tally) for span in spans)
    group = SpanGroup(doc, name=name, spans=[span for span in found if span is not None])
    tally.entities.update(span.label_ for span in group)
    return group


def _set_entities(doc: Doc, entities: Sequence[Entity], record: Record, tally: Tally) -> None:
    """Set doc.ents; tokens that a misaligned entity touches become missing annotation, since they aren't O."""
    missing = [token.i for start, end in record.missing for token in _touched(doc, start, end)]
    aligned: list[Span] = []
    for entity in entities:
        span = _aligned(doc, entity, record, tally)
        if span is not None:
            aligned.append(span)
            tally.entities[entity.label] += 1
        else:
            missing += [token.i for token in _touched(doc, entity.start, entity.end)]
    inside = {token.i for span in aligned for token in span}
    others = "missing" if record.partial else "outside"
    doc.set_ents(aligned, missing=[doc[i : i + 1] for i in sorted(set(missing) - inside)], default=others)


def _touched(doc: Doc, start: int, end: int) -> list[Token]:
    """The tokens that have a character in common with a range of the text."""
    return [token for token in doc if token.idx < end and start < token.idx + len(token)]


def _aligned(doc: Doc, entity: Entity, record: Record, tally: Tally) -> Span | None:
    """The span of whole tokens that an entity is; None if it begins or ends inside a token, which is counted."""
    span = doc.char_span(entity.start, entity.end, label=entity.label)
    if span is not None:
        return span
    piece = doc.text[entity.start : entity.end]
    tally.check_loss(f"the entity {piece!r} ({entity.label}), which begins or ends inside a token", record.where)
    tally.misaligned += 1
    for unit in OTHERS if not doc.text.isascii() else ():
        found = in_characters(doc.text, *(entity.given or (entity.start, entity.end)), unit)
        tally.other_units[unit] += found is not None and doc.char_span(*found) is not None
    if len(tally.examples) < MAX_EXAMPLES:
        touched = tuple(token.text for token in _touched(doc, entity.start, entity.end))
        tally.examples.append(Misaligned(record.where, piece, entity.label, touched))
    return None
