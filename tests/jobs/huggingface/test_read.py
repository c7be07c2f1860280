"""Checkpoints of every family and task as pipelines: the logits, the annotations, what is refused."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
import transformers
from checkpoints import CATEGORIES, KINDS, TAGS, make_checkpoint, named, plain_logits, settings_of
from encoders import TRANSFORMERS_5, rewrite
from fake_hub import Repository, fake_hub
from pipelines import output_of
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, make_encoder

from spacy_bertft import from_huggingface, pair_doc, question_doc
from spacy_bertft.compat import quiet_transformers
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.errors import ConfigError, DataError, EncoderError
from spacy_bertft.jobs.huggingface.read import import_checkpoint
from spacy_bertft.tasks.entity_spans import Tagging

pytestmark = pytest.mark.touches_transformers

TEXT = "Anna lives in Berlin and works in the office."
PAIR = ("Where does Anna live?", "Anna lives in Berlin.")
COMPONENTS = {"ner": "ner", "textcat": "textcat", "multilabel": "textcat_multilabel", "pair": "pair", "qa": "qa"}


def imported(tmp_path, family, task, **settings):
    """A checkpoint, and the pipeline made of it, after saving and loading."""
    folder = make_checkpoint(tmp_path / "checkpoint", family, task, **settings)
    import_checkpoint(str(folder), tmp_path / "pipeline", pairs=task == "pair")
    return folder, spacy.load(tmp_path / "pipeline")


def logits_of(nlp, name, doc):
    """The logits of a head on the Doc, read from the encoder in the pipeline."""
    return output_of(nlp.get_pipe(name), [doc]).logits


def first_subwords(folder, doc, *texts):
    """The place of each token's first subword among those that transformers' tokenizer gives."""
    encoded = transformers.AutoTokenizer.from_pretrained(folder)(*texts, return_offsets_mapping=True)
    places = []
    for token in doc:
        which = 0 if len(texts) == 1 or token.idx < len(texts[0]) else 1
        start = token.idx - which * (len(texts[0]) + 1)
        pieces = zip(encoded["offset_mapping"], encoded.sequence_ids(0), strict=True)
        inside = (it == which and a < start + len(token) and b > max(start, a) for (a, b), it in pieces)
        places.append(next((place for place, found in enumerate(inside) if found), None))
    return places


def assert_near(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_tags_have_the_logits_of_each_token_s_first_subword(tmp_path, family):
    folder, nlp = imported(tmp_path, family, "ner")
    doc = nlp.make_doc(TEXT)
    theirs = plain_logits(folder, "ner", TEXT)[first_subwords(folder, doc, TEXT)]
    tags = Tagging.of(nlp.get_pipe("ner").labels, "bio").tags
    assert_near(logits_of(nlp, "ner", doc), theirs[:, [TAGS.index(tag) for tag in tags]])
    assert theirs.abs().max() > 0.1


@pytest.mark.parametrize("task", ["textcat", "multilabel"])
@pytest.mark.parametrize("family", FAMILIES)
def test_categories_have_the_same_logits_and_probabilities(tmp_path, family, task):
    folder, nlp = imported(tmp_path, family, task)
    theirs = plain_logits(folder, task, TEXT)
    assert_near(logits_of(nlp, COMPONENTS[task], nlp.make_doc(TEXT))[0], theirs)
    scores = theirs.softmax(0) if task == "textcat" else theirs.sigmoid()
    assert nlp(TEXT).cats == pytest.approx(dict(zip(CATEGORIES, scores.tolist(), strict=True)), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_have_the_same_logits(tmp_path, family):
    folder, nlp = imported(tmp_path, family, "pair")
    theirs = plain_logits(folder, "pair", *PAIR)
    assert_near(logits_of(nlp, "pair", pair_doc(nlp, *PAIR))[0], theirs)
    assert nlp("\t".join(PAIR)).cats == pytest.approx(
        dict(zip(CATEGORIES, theirs.softmax(0).tolist(), strict=True)), abs=1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_number_is_the_logit(tmp_path, family):
    folder, nlp = imported(tmp_path, family, "regression")
    assert nlp(TEXT)._.value == pytest.approx(plain_logits(folder, "regression", TEXT).item(), abs=1e-4)


def test_a_number_of_a_pair(tmp_path):
    folder = make_checkpoint(tmp_path / "c", "bert-cased", "regression", problem_type=None)
    nlp = from_huggingface(str(folder), pairs=True)
    assert nlp("\t".join(PAIR))._.value == pytest.approx(plain_logits(folder, "regression", *PAIR).item(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_starts_and_ends_of_answers_have_the_same_logits(tmp_path, family):
    folder, nlp = imported(tmp_path, family, "qa")
    doc = question_doc(nlp, *PAIR)
    theirs = plain_logits(folder, "qa", *PAIR)
    found = logits_of(nlp, "qa", doc)
    starts = first_subwords(folder, doc, *PAIR)
    words = [place for place, subword in enumerate(starts) if subword is not None]  # all but the tab
    assert len(words) == len(doc) - 1
    assert_near(found[words, 0], theirs[[starts[place] for place in words], 0])
    assert_near(found[len(doc)], theirs[0])  # no answer: the first special subword
    # A token's end is its last subword: where it has only one, that is its first.
    only = [p for p in words if starts[p] + 1 in starts]
    assert only
    assert_near(found[only, 1], theirs[[starts[place] for place in only], 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_words_have_the_same_candidates(tmp_path, family):
    folder, nlp = imported(tmp_path, family, "fill-mask")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = f"Anna lives in {tokenizer.mask_token} ."
    theirs = plain_logits(folder, "fill-mask", text)[tokenizer(text)["input_ids"].index(tokenizer.mask_token_id)]
    doc = nlp(text)
    (mask,) = doc.spans["masks"]
    best = theirs.softmax(0).topk(5).values.tolist()
    assert [probability for _, probability in mask._.candidates] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"classifier_pooling": "cls"},
        {"classifier_pooling": "mean"},
        {"classifier_activation": "tanh"},
        {"classifier_bias": True, "norm_bias": True},
        {"norm_eps": 0.01},
    ],
    ids=str,
)
@pytest.mark.parametrize("pair", [False, True])
def test_modernbert_s_own_settings_are_honoured(tmp_path, settings, pair):
    folder = make_checkpoint(tmp_path / "c", "modernbert", "textcat", **settings)
    texts = PAIR if pair else (TEXT,)
    nlp = from_huggingface(str(folder), pairs=pair)
    expected = plain_logits(folder, "textcat", *texts).softmax(0).tolist()
    assert nlp("\t".join(texts)).cats == pytest.approx(dict(zip(CATEGORIES, expected, strict=True)), abs=1e-4)


@pytest.mark.parametrize("act", ["tanh", "gelu", "gelu_new", "relu"])
def test_deberta_s_activation_is_honoured(tmp_path, act):
    folder = make_checkpoint(tmp_path / "c", "deberta-v2", "textcat", pooler_hidden_act=act)
    expected = plain_logits(folder, "textcat", TEXT).softmax(0).tolist()
    assert list(from_huggingface(str(folder))(TEXT).cats.values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        (("O", "B-PER", "I-PER", "L-PER", "U-PER"), "biluo"),
        (("S-PER", "E-PER", "I-PER", "O", "B-PER"), "biluo"),
        (("I-PER", "O"), "io"),
        (("PER", "LOC", "O"), "io"),
        (("B-LOC", "I-LOC", "I-PER", "O"), "iob1"),
        (("B-AGE", "O"), "bio"),
    ],
)
def test_every_scheme_gives_entities_and_the_same_logits(tmp_path, labels, scheme):
    folder, nlp = imported(tmp_path, "bert-cased", "ner", **named(labels))
    assert nlp.get_pipe_config("ner")["scheme"] == scheme
    doc = nlp.make_doc(TEXT)
    theirs = plain_logits(folder, "ner", TEXT)[first_subwords(folder, doc, TEXT)]
    found = logits_of(nlp, "ner", doc)
    lacking = found < -9000
    assert_near(found[~lacking].sort().values, theirs.flatten().sort().values)
    nlp(TEXT)


def test_a_tag_that_the_checkpoint_lacks_is_never_set(tmp_path):
    """Not even where nothing else would be valid."""
    _, nlp = imported(tmp_path, "bert-cased", "ner", **named(("B-AGE", "O")))
    assert all(len(ent) == 1 for ent in nlp(TEXT * 3).ents)
    assert nlp.get_pipe("ner").cfg["labels"] == ["AGE"]


def test_it_has_the_labels_and_learns_on(tmp_path):
    _, nlp = imported(tmp_path, "bert-uncased", "ner")
    assert nlp.pipe_labels["ner"] == ["LOC", "PER"]
    doc = nlp.make_doc(TEXT)
    eg = spacy.training.Example.from_dict(doc, {"entities": [(0, 4, "PER"), (14, 20, "LOC")]})
    optimizer = nlp.resume_training()
    optimizer.learn_rate = 3e-3
    for _ in range(60):
        nlp.update([eg], sgd=optimizer)
    assert [(ent.text, ent.label_) for ent in nlp(TEXT).ents] == [("Anna", "PER"), ("Berlin", "LOC")]


def test_from_python_it_runs_as_its_settings_say_and_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(Checkpoint, "write", lambda self, folder, **more: pytest.fail(f"written to {folder}"))
    nlp = from_huggingface(str(make_checkpoint(tmp_path / "c", "bert-uncased", "textcat")), lang="de")
    encoder = nlp.get_pipe("encoder").encoder
    assert encoder.settings.precision == "auto"
    assert nlp.lang == "de"
    assert nlp.config["components"]["encoder"]["model"]["name"] == str(tmp_path / "c")
    assert np.isclose(sum(nlp(TEXT).cats.values()), 1)


def test_a_folder_of_an_installed_package(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "site/tiny_checkpoint_package/data", "bert-uncased", "textcat")
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    import_checkpoint("tiny_checkpoint_package/data", tmp_path / "pipeline")
    expected = plain_logits(folder, "textcat", TEXT).softmax(0).tolist()
    assert list(spacy.load(tmp_path / "pipeline")(TEXT).cats.values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.skipif(not TRANSFORMERS_5, reason="transformers 4 chooses its cache when it is imported")
def test_a_name_on_the_hub(tmp_path, monkeypatch):
    folder = make_checkpoint(tmp_path / "c", "bert-uncased", "textcat")
    with fake_hub(monkeypatch, tmp_path / "cache") as hub:
        hub.repos["anna/kinds"] = Repository(private=False)
        hub.repos["anna/kinds"].files.update({path.name: path.read_bytes() for path in folder.iterdir()})
        import_checkpoint("anna/kinds", tmp_path / "pipeline")
    expected = plain_logits(folder, "textcat", TEXT).softmax(0).tolist()
    assert list(spacy.load(tmp_path / "pipeline")(TEXT).cats.values()) == pytest.approx(expected, abs=1e-4)


def test_nothing_is_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_huggingface(str(make_checkpoint(tmp_path / "c", "bert-uncased", "textcat")))


@pytest.mark.filterwarnings("ignore:`torch.jit")  # of transformers 4
@pytest.mark.parametrize("task", ["ner", "textcat", "qa"])
def test_the_first_deberta_has_the_same_heads(tmp_path, task):
    """Its tokenizers are byte-level, as ModernBERT's."""
    folder = make_encoder(tmp_path / "c", "modernbert")
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    same = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "pad_token_id",
    )
    config = transformers.AutoConfig.for_model(
        "deberta",
        **{key: sizes[key] for key in same},
        **settings_of(task),
        max_position_embeddings=64,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        type_vocab_size=0,
    )
    with quiet_transformers():
        getattr(transformers, f"AutoModelFor{KINDS[task]}").from_config(config).save_pretrained(folder)
    found = import_checkpoint(str(folder), tmp_path / "out")  # which compares the logits
    assert found.architecture.startswith("DebertaFor")
    assert found.difference < 1e-5
    if task == "textcat":
        theirs = plain_logits(folder, task, TEXT).softmax(0).tolist()
        assert list(spacy.load(tmp_path / "out")(TEXT).cats.values()) == pytest.approx(theirs, abs=1e-4)


# --- what is refused


def checkpoint(tmp_path, task="ner", family="bert-uncased"):
    return make_checkpoint(tmp_path / "c", family, task)


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refused(folder, kind, said, **options):
    with pytest.raises(kind, match=re.escape(said)):
        from_huggingface(str(folder), **options)


def test_an_empty_folder(tmp_path):
    refused(tmp_path, EncoderError, "holds no config.json (found: nothing)")


def test_a_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path / "model.safetensors", DataError, "found a file")


def test_no_weights(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "model.safetensors").unlink()
    refused(folder, EncoderError, "holds no weights")


def test_a_name_that_is_nowhere():
    refused("no-such/checkpoint", EncoderError, "'no-such/checkpoint' is not a folder here")


def test_an_encoder_without_a_head(tmp_path):
    refused(make_encoder(tmp_path / "c", "bert-uncased"), ConfigError, "is a BertModel: an encoder without a head")


def test_a_head_that_was_not_saved(tmp_path):
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda found: {name: it for name, it in found.items() if "classifier" not in name})
    refused(folder, EncoderError, "lacks 2 weights of a BertForTokenClassification: classifier.bias, classifier.weight")


@pytest.mark.parametrize(("family", "names"), [("bert-uncased", "bert.pooler"), ("deberta-v2", "pooler.")])
def test_a_pooler_that_was_not_saved(tmp_path, family, names):
    """transformers would start it at random."""
    folder = checkpoint(tmp_path, "textcat", family)
    change_weights(folder, lambda found: {name: it for name, it in found.items() if not name.startswith(names)})
    refused(folder, EncoderError, f"lacks 2 weights of a {'BertFor' if 'bert.' in names else 'DebertaV2For'}")


def test_weights_of_a_head_that_computes_more(tmp_path):
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda found: found | {"crf.transitions": torch.zeros(5, 5)})
    refused(folder, EncoderError, "has 1 weights that a BertForTokenClassification does not use: crf.transitions")


def test_another_number_of_labels(tmp_path):
    folder = checkpoint(tmp_path)
    rewrite(folder / "config.json", id2label={"0": "O", "1": "PER"}, label2id={"O": 0, "PER": 1})
    refused(folder, EncoderError, "don't fit its config.json: classifier.")
    refused(folder, EncoderError, "Expected those of a BertForTokenClassification with 2 labels (id2label)")


def test_weights_that_are_not_finite(tmp_path):
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda found: found | {"classifier.bias": torch.full((5,), float("nan"))})
    refused(folder, EncoderError, "hold NaN or infinite numbers, in classifier.bias")


def test_no_tokenizer(tmp_path):
    folder = checkpoint(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    refused(folder, EncoderError, "the files of a fast tokenizer")


def test_a_config_that_is_damaged(tmp_path):
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text("{", encoding="utf-8")
    refused(folder, EncoderError, "could not be loaded")


def test_a_family_whose_heads_are_not_known(tmp_path):
    folder = checkpoint(tmp_path)
    rewrite(folder / "config.json", model_type="megatron-bert")
    refused(
        folder, ConfigError, "is of the family 'megatron-bert'. Expected one whose heads are known here: albert, bert"
    )


def test_one_category(tmp_path):
    folder = make_checkpoint(tmp_path / "c", "bert-uncased", "regression", problem_type=None)
    refused(folder, ConfigError, "Exclusive categories need at least two labels", task="textcat")


def test_a_language_that_spacy_does_not_know(tmp_path):
    refused(checkpoint(tmp_path), ConfigError, "The language is 'qq', which spaCy does not know", lang="qq")


def test_nothing_is_written_if_it_is_refused(tmp_path):
    folder = checkpoint(tmp_path)
    change_weights(folder, lambda found: found | {"crf.transitions": torch.zeros(5, 5)})
    with pytest.raises(EncoderError):
        import_checkpoint(str(folder), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_a_hub_name_is_no_folder_that_the_output_could_lie_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderError, match="could not be loaded from the Hugging Face hub"):
        import_checkpoint("anna/some-ner", Path("anna"))


def test_the_output_can_t_lie_in_the_checkpoint(tmp_path):
    folder = checkpoint(tmp_path)
    with pytest.raises(ConfigError, match="or one lies in the other"):
        import_checkpoint(str(folder), folder / "out")


def test_a_pipeline_is_replaced_only_if_asked(tmp_path):
    folder = checkpoint(tmp_path)
    import_checkpoint(str(folder), tmp_path / "out")
    with pytest.raises(ConfigError, match="holds a pipeline already"):
        import_checkpoint(str(folder), tmp_path / "out")
    import_checkpoint(str(folder), tmp_path / "out", lang="de", overwrite=True)
    assert json.loads((tmp_path / "out/meta.json").read_text(encoding="utf-8"))["lang"] == "de"
