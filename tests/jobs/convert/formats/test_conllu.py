"""CoNLL-U with entities in its last column."""

from __future__ import annotations

import pytest
from convert_helpers import ents, iobs

from spacy_bertft.errors import DataError


def line(number, form, misc="_"):
    return "\t".join((str(number), form, *"_______", misc))


def sentence(*rows):
    return "".join(line(*row) + "\n" for row in rows) + "\n"


ADA = sentence((1, "Ada", "NER=B-PER"), (2, "Lee", "SpaceAfter=No|NER=I-PER"), (3, ".", "NER=O"))


def test_tokens_spaces_and_entities(made):
    out = made("a.conllu", "# sent_id = 1\n# text = Ada Lee.\n" + ADA)
    assert (out.format, out.doc.text, out.counts.skipped) == ("CoNLL-U", "Ada Lee.", 2)
    assert ents(out.doc) == [("Ada Lee", "PER")]
    assert iobs(out.doc)[2] == "O"


@pytest.mark.parametrize("misc", ["NER=B-PER", "start_char=0|ner=S-PER", "name=B-PER", "NE=U-PER", "NER=PER"])
def test_the_ways_to_write_a_tag(made, misc):
    assert ents(made("a.conllu", sentence((1, "Ada", misc), (2, "ran"))).doc) == [("Ada", "PER")]


def test_a_token_of_several_words_is_one_token_of_the_text(made):
    rows = [
        ("1-2", "vámonos"),
        (1, "vamos", "NER=O"),
        (2, "nos", "NER=O"),
        ("3-4", "al"),
        (3, "a", "NER=O"),
        (4, "el", "NER=B-LOC"),
        (5, "mar", "SpaceAfter=No|NER=I-LOC"),
        ("5.1", "nada"),
        (6, "!"),
    ]
    out = made("a.conllu", sentence(*rows))
    assert out.doc.text == "vámonos al mar!"
    assert ents(out.doc) == [("al mar", "LOC")]


def test_two_entities_in_one_token(made):
    rows = [("1-2", "ab"), (1, "a", "NER=B-X"), (2, "b", "NER=B-Y"), (3, "c", "NER=O")]
    out = made("a.conllu", sentence(*rows))
    assert ents(out.doc) == [("ab", "X")]
    assert out.counts.dropped == {"entities that share a token with the one before": 1}


def test_sentences_are_merged_within_documents(made):
    out = made("a.conllu", ADA + ADA + "# newdoc\n" + ADA, merge_sentences=3)
    assert [doc.text for doc in out.docs] == ["Ada Lee. Ada Lee.", "Ada Lee."]
    assert len(ents(out.docs[0])) == 2


@pytest.mark.parametrize(
    ("content", "where", "found", "fix"),
    [
        (sentence((1, "Ada")), "a.conllu", "CoNLL-U without entities", "add the entities"),
        (ADA + sentence((1, "Ada", "NER=3")), "a.conllu:5", "the tag '3'", "correct"),
        (ADA + "1\tAda\tB-PER\n", "a.conllu:5", "'1\\tAda\\tB-PER'", "--format) to conll"),
        (ADA + line("x", "Ada"), "a.conllu:5", "'x\\tAda", "correct this line"),
    ],
)
def test_errors(made, content, where, found, fix):
    with pytest.raises(DataError) as caught:
        made("a.conllu", content)
    message = str(caught.value)
    assert f"{where}: found {found}" in message
    assert fix in message.split("; fix: ")[1]


def test_the_tag_of_a_token_of_several_words_is_the_whole_tokens(made):
    rows = [(1, "Voy"), ("2-3", "al", "ner=B-LOC"), (2, "a"), (3, "el"), ("4-5", "delmar", "ner=I-LOC"), (4, "del")]
    out = made("a.conllu", sentence(*rows, (5, "mar"), (6, "!", "ner=O")))
    assert ents(out.doc) == [("al delmar", "LOC")]
    assert out.counts.dropped == {}


def test_the_tags_of_words_count_before_that_of_their_token(made):
    rows = [
        ("1-2", "ab", "ner=B-X"),
        (1, "a", "NER=B-Y"),
        (2, "b", "NER=O"),
        ("3-4", "cd", "ner=O"),
        (3, "c"),
        (4, "d"),
    ]
    out = made("a.conllu", sentence(*rows))
    assert ents(out.doc) == [("ab", "Y")]
    assert out.counts.dropped == {"tags of tokens whose words have tags": 1}
