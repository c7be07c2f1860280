"""Labels of token classifiers as tags of our schemes."""

from __future__ import annotations

import re

import pytest

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.huggingface.tags import read_tags
from spacy_bertft.tasks.entity_spans import Tagging

CASES = {
    "IOB2": ("O B-PER I-PER B-LOC I-LOC", "bio", {"B-PER": "B-PER"}),
    "O at the end": ("B-PER I-PER B-LOC I-LOC O", "bio", {"I-LOC": "I-LOC"}),
    "O in the middle": ("I-LOC B-LOC O B-PER I-PER", "bio", {"O": "O"}),
    "underscores": ("O B_PER I_PER", "bio", {"B-PER": "B_PER"}),
    "a hyphen in the label": ("O B-PER-NAME I-PER-NAME", "bio", {"B-PER-NAME": "B-PER-NAME"}),
    "one-token entities": ("O B-PER I-PER B-AGE", "bio", {"I-AGE": None}),
    "only B": ("O B-GENE B-DRUG", "bio", {"I-GENE": None, "B-DRUG": "B-DRUG"}),
    "IOB1: a label with I alone": ("B-LOC B-MISC B-ORG I-LOC I-MISC I-ORG I-PER O", "iob1", {"B-PER": None}),
    "BILUO": ("O B-PER I-PER L-PER U-PER", "biluo", {"U-PER": "U-PER"}),
    "BIOES": ("S-PER B-PER E-PER I-PER O", "biluo", {"L-PER": "E-PER", "U-PER": "S-PER"}),
    "BMES": ("O B-PER M-PER E-PER S-PER", "biluo", {"I-PER": "M-PER", "L-PER": "E-PER"}),
    "BMEWO": ("O B-PER M-PER E-PER W-PER", "biluo", {"U-PER": "W-PER"}),
    "BIOES, not all": ("O S-PER B-LOC E-LOC", "biluo", {"B-PER": None, "I-LOC": None, "L-LOC": "E-LOC"}),
    "IO": ("I-PER O I-LOC", "io", {"I-PER": "I-PER"}),
    "plain": ("PER LOC O", "io", {"I-PER": "PER", "I-LOC": "LOC"}),
    "plain, one like a tag": ("O E-mail Phone", "io", {"I-E-mail": "E-mail", "I-Phone": "Phone"}),
    "plain, all like tags": ("O E-mail S-Bahn", "io", {"I-E-mail": "E-mail", "I-S-Bahn": "S-Bahn"}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_of_our_tags_is_found_among_the_labels(name):
    labels, scheme, expected = CASES[name]
    names = labels.split()
    found = read_tags(names)
    assert found.scheme == scheme
    tags = Tagging.of(found.labels, found.scheme).tags
    assert len(tags) == len(found.order)
    there = {tag: None if place is None else names[place] for tag, place in zip(tags, found.order, strict=True)}
    assert there["O"] == "O"
    assert expected.items() <= there.items()
    assert sorted(place for place in found.order if place is not None) == list(range(len(names)))  # none is lost


def test_labels_come_in_the_order_of_their_first_tag():
    assert read_tags(["I-LOC", "B-LOC", "O", "B-PER", "I-PER"]).labels == ("LOC", "PER")


def test_a_scheme_that_the_labels_can_t_tell_is_given():
    names = ["O", "B-PER", "I-PER"]
    assert read_tags(names).scheme == "bio"
    assert read_tags(names, scheme="iob1").scheme == "iob1"
    assert read_tags(names, scheme="biluo").order == (0, 1, 2, None, None)


def test_labels_like_tags_are_plain_if_the_scheme_says_so():
    assert read_tags(["O", "B-vitamin", "E-mail", "Phone"], scheme="io").labels == ("B-vitamin", "E-mail", "Phone")
    assert read_tags(["O", "I-PER", "I-LOC"], scheme="io").labels == ("PER", "LOC")
    assert read_tags(["O", "E-PER", "S-PER"], scheme="biluo").labels == ("PER",)


def test_the_label_outside_of_entities_can_have_another_name():
    assert read_tags(["PER", "none"], outside="none").order == (1, 0)
    assert read_tags(["LABEL_0", "LABEL_1"], outside="LABEL_0").labels == ("LABEL_1",)


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        ("NOUN VERB", {}, "no label 'O' for tokens outside of entities (found: 'NOUN', 'VERB')"),
        ("LABEL_0 LABEL_1", {}, "if the labels are without names, write the names into id2label"),
        ("O B-PER I-PER", {"outside": "none"}, "no label 'none'"),
        ("O B-PER I-PER DATE", {}, "partly tags such as 'B-PER' and partly others ('DATE')"),
        ("O B-PER I_PER", {}, "Expected tags of one scheme"),
        ("O PER-B PER-I", {}, "with the part of the entity at the end ('PER-B', 'PER-I'). Expected it at the start"),
        ("O B-PER E-PER L-PER", {}, "mean the same tag ('E-PER', 'L-PER')"),
        ("O B-PER E-PER", {"scheme": "bio"}, "The scheme is 'bio', with the tags B, I, but the labels"),
        ("O B-PER I-PER", {"scheme": "io"}, "have others ('O', 'B-PER', 'I-PER')"),
    ],
)
def test_labels_that_no_scheme_holds_are_refused(names, settings, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        read_tags(names.split(), **settings)


def test_many_labels_are_cut_in_messages():
    with pytest.raises(ConfigError, match=r"'t7' and 12 more\)"):
        read_tags([f"t{number}" for number in range(20)])
