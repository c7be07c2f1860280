"""Options of `convert`, the corpus reader and the command line for reading annotated files."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from spacy_bertft.errors import ConfigError

VALUE_KEY = "value"
FormatName = Literal[
    "auto",
    "jsonl",
    "label-studio",
    "doccano",
    "prodigy",
    "brat",
    "inception",
    "conll",
    "conllu",
    "csv",
    "tsv",
    "squad",
    "spacy-json",
    "parquet",
    "datasets",
]
TargetName = Literal["spacy", "jsonl", "label-studio", "doccano", "prodigy", "brat", "conll"]
Unit = Literal["characters", "utf16", "bytes"]
Categories = Literal["auto", "exclusive", "independent"]


@dataclass(frozen=True)
class Options:
    """How to read annotated files.

    This is the only list of these options: functions and commands get them from `with_settings`. The string beside each
    type is the help on the command line.
    """

    format: Annotated[FormatName, "Format of the files; auto finds it from their content."] = "auto"
    strict: Annotated[bool, "Whether anything that would be lost is an error."] = False
    text_key: Annotated[str, "JSON key or column that holds the text."] = "text"
    label_key: Annotated[str, "JSON key or column that holds the only category of a text."] = "label"
    labels_key: Annotated[str, "JSON key or column that holds several categories of a text."] = "labels"
    value_key: Annotated[str, "JSON key or column that holds a number for a text, such as a rating."] = VALUE_KEY
    first_key: Annotated[str, "JSON key or column that holds the first text of a pair."] = "first"
    second_key: Annotated[str, "JSON key or column that holds the second text of a pair."] = "second"
    tokens_key: Annotated[str, "JSON key or column that holds a list of tokens, instead of a text."] = "tokens"
    tags_key: Annotated[str, "JSON key or column that holds the tokens' entity tags."] = "ner_tags"
    categories: Annotated[
        Categories, "Whether each text has one category at most (exclusive), or any number; auto: as the file has them."
    ] = "auto"
    label_separator: Annotated[str, "Separator of several categories in a CSV or TSV column."] = "|"
    quotes: Annotated[bool, "CSV and TSV: whether double quotes enclose a field."] = True
    token_column: Annotated[int, "CoNLL: column of the token, from 1; -1 is the last."] = 1
    tag_column: Annotated[int, "CoNLL: column of the entity tag."] = -1
    merge_sentences: Annotated[int, "CoNLL: how many sentences make one training text."] = 1
    offsets: Annotated[Unit, "What offsets of spans count: characters, UTF-16 units or bytes of UTF-8."] = "characters"
    span_group: Annotated[
        str, "Group of doc.spans for the spans, which may then overlap ('sc' for spancat); empty: doc.ents."
    ] = ""
    incorrect_group: Annotated[
        str, "Prodigy: group of doc.spans for rejected spans, spaCy's incorrect_spans_key; empty: none."
    ] = ""
    layer: Annotated[str, "INCEpTION: layer of the spans, such as webanno.custom.Drug; empty: named entities."] = ""
    subset: Annotated[str, "Data sets: which configuration of a data set with several."] = ""

    def __post_init__(self) -> None:
        keys = [field.name for field in dataclasses.fields(self) if field.name.endswith("_key")]
        if self.value_key == VALUE_KEY:  # another key of this name takes precedence over the default
            keys.remove("value_key")
        for name in (*keys, "label_separator"):
            if not getattr(self, name):
                raise ConfigError(f"{name}: found an empty string; expected a name; fix: leave it out or fill it")
        self._check_different(keys)
        for name, hint in (("format", FormatName), ("offsets", Unit), ("categories", Categories)):
            if getattr(self, name) not in get_args(hint):
                raise ConfigError(
                    f"{name}: found {getattr(self, name)!r}; expected one of {', '.join(get_args(hint))}; "
                    "fix: correct the name"
                )
        for name in ("token_column", "tag_column"):
            if getattr(self, name) == 0:
                raise ConfigError(f"{name}: found 0; expected 1 or more, or -1 for the last; fix: count from 1")
        if self.merge_sentences < 1:
            raise ConfigError(
                f"merge_sentences: found {self.merge_sentences}; expected 1 or more; "
                "fix: use 1 for one Doc per sentence"
            )

    def _check_different(self, keys: list[str]) -> None:
        values = [getattr(self, name) for name in keys]
        if len(set(values)) < len(values):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in keys)
            raise ConfigError(
                f"{', '.join(keys)}: found {', '.join(map(repr, values))}; expected different names; fix: rename one "
                f"of them ({options})"
            )


def has_value(keys: Collection[str], options: Options) -> bool:
    """Whether a record or a table with these keys has a number to train on.

    A "value" beside a category is not read, as it may be unrelated, unless `value_key` names another key.
    """
    categories = {options.label_key, options.labels_key, "cats"} & set(keys)
    return options.value_key in keys and (options.value_key != VALUE_KEY or not categories)


def is_pair(keys: Collection[str], options: Options) -> bool:
    """Whether a record or a header with these keys holds two texts."""
    return options.text_key not in keys and (options.first_key in keys or options.second_key in keys)
