"""`shrink`: encoders and pipelines in, smaller ones out, which give the same where no subword is missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import spacy
import torch
from encoders import CPU, LAYERED, LONG, MIXED, encoder_of, rewrite, rows_of, texts_of
from pipelines import ANNOTATED, TEXTS, annotated_file, annotations, blank, examples, initialized, trained
from safetensors.torch import load_file
from spacy.tokens import DocBin
from tiny import CORPUS, FAMILIES, make_encoder
from transformers import AutoModelForTokenClassification

from spacy_bertft.encoder.fill_mask import FillMask
from spacy_bertft.encoder.loading import load
from spacy_bertft.encoder.masked_lm import load_masked
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.errors import ConfigError, DataError, EncoderError
from spacy_bertft.export import export
from spacy_bertft.shrink import shrink

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

USED = [*CORPUS[:3], CORPUS[5]]
HELD_OUT = [*CORPUS, *MIXED, LONG]


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "used.txt"
    path.write_text("\n".join(USED), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shrink") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The texts that the pipeline was trained on, with their annotations."""
    return annotated_file(tmp_path_factory.mktemp("data") / "train.jsonl")


@pytest.fixture(scope="module")
def report(pipeline, data):
    """Of a pipeline cut to the texts that it was trained on, with some others held out."""
    rows = [*ANNOTATED, ("The quick brown fox jumps over the lazy dog", [], "home")]
    return shrink(
        pipeline, pipeline.with_name("small"), corpus=[data], dev=annotated_file(data.with_name("dev.jsonl"), rows)
    )


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_rows(old, new, texts=HELD_OUT):
    """Texts whose subwords all stay have the same ones, and the same hidden rows bit for bit. Returns how many."""
    same = 0
    for text in texts:
        before, after = (encoder.splitter.tokenize([text]) for encoder in (old, new))
        subwords = [old.tokenizer.id_to_token(number) for number in before.ids]
        numbers = [new.tokenizer.token_to_id(one) for one in subwords]
        if None in numbers:
            assert [new.tokenizer.id_to_token(number) for number in after.ids] != subwords
            continue
        assert after.ids.tolist() == numbers
        assert np.array_equal(after.starts, before.starts)
        assert torch.equal(rows_of(new, [text]), rows_of(old, [text]))
        same += 1
    return same


# --- encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_that_need_no_dropped_subword_are_encoded_bit_for_bit_alike(family, tiny_encoder, used, tmp_path):
    report = shrink(str(tiny_encoder(family)), tmp_path / "out", corpus=[used])
    old, new = encoder_of(tiny_encoder(family)), load(str(tmp_path / "out"), EncoderSettings(**CPU)).eval()
    same = assert_same_rows(old, new)
    assert len(USED) <= same < len(HELD_OUT)
    assert (new.first_position, new.window, new.n_special) == (old.first_position, old.window, old.n_special)
    assert report.encoders[0].coverage == 1.0
    assert report.encoders[0].subwords.before == old.checkpoint.config["vocab_size"]
    assert report.encoders[0].subwords.after == new.checkpoint.config["vocab_size"] < report.encoders[0].subwords.before


@pytest.mark.parametrize("family", ["bert-uncased", "roberta", "xlm-roberta"])
def test_pairs_of_texts_are_encoded_alike_too(family, tiny_encoder, used, tmp_path):
    shrink(str(tiny_encoder(family)), tmp_path / "out", corpus=[used])
    first, second = CORPUS[0], CORPUS[1]
    text = f"{first}\t{second}"
    texts = texts_of([text])
    segments = np.array([[0, len(first), len(first) + 1, len(text)]])
    texts = type(texts)(texts.texts, texts.token_starts, texts.token_ends, texts.token_counts, segments)
    with torch.no_grad():
        found = [encoder_of(folder)(texts).hidden for folder in (tiny_encoder(family), tmp_path / "out")]
    assert torch.equal(*found)


def test_the_folder_holds_a_plain_encoder(tiny_bert, used, tmp_path):
    report = shrink(str(tiny_bert), tmp_path / "new" / "out", corpus=[used])
    assert {path.name for path in report.out.iterdir()} <= {path.name for path in tiny_bert.iterdir()} - {"vocab.txt"}
    assert report.size.after == sum(map(len, files(report.out).values())) - _header(report.out / "model.safetensors")
    nlp = initialized(report.out)  # it works as the name of an encoder
    nlp.update(examples(nlp), sgd=nlp.create_optimizer())
    assert report.scores == report.label_scores == ()
    assert report.encoders[0].kept_layers is None
    assert not report.train_again


def _header(path):
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


@pytest.mark.parametrize("family", LAYERED)
def test_layers_can_be_dropped_without_a_corpus(family, tiny_encoder, tmp_path):
    report = shrink(str(tiny_encoder(family)), tmp_path / "out", layers=1)
    (one,) = report.encoders
    assert (one.layers.before, one.layers.after, one.kept_layers) == (2, 1, (0,))
    assert one.subwords.before == one.subwords.after
    assert one.coverage is None
    assert report.train_again
    found, old = encoder_of(tmp_path / "out"), encoder_of(tiny_encoder(family))
    assert found.shape.layers == 1
    assert found.splitter.tokenize(HELD_OUT).ids.tolist() == old.splitter.tokenize(HELD_OUT).ids.tolist()


def test_with_all_layers_nothing_has_to_be_trained_again(tiny_bert, tmp_path):
    report = shrink(str(tiny_bert), tmp_path / "out", layers=2)
    assert report.encoders[0].kept_layers == (0, 1)
    assert not report.train_again
    assert_same_rows(encoder_of(tiny_bert), encoder_of(tmp_path / "out"))


def test_subwords_and_layers_together(tiny_bert, used, tmp_path):
    (one,) = shrink(str(tiny_bert), tmp_path / "out", corpus=[used], layers=[1], dev=used).encoders
    found = encoder_of(tmp_path / "out")
    assert (found.shape.layers, found.shape.words) == (one.layers.after, one.subwords.after) == (1, one.subwords.after)
    saved = found.at_rest().weights_to_save()
    assert one.parameters.after == sum(weight.numel() for weight in saved.values()) < one.parameters.before
    assert (one.dev.texts, one.dev.changed_texts, one.dev.share_kept) == (len(USED), 0, 1.0)


def test_held_out_texts_are_counted_as_they_change(tiny_bert, used, tmp_path):
    dev = tmp_path / "dev.txt"
    dev.write_text("\n".join(CORPUS), encoding="utf-8")
    (one,) = shrink(str(tiny_bert), tmp_path / "out", corpus=[used], dev=dev).encoders
    old, new = encoder_of(tiny_bert), encoder_of(tmp_path / "out")
    changed = sum(old.tokenizer.encode(text).tokens != new.tokenizer.encode(text).tokens for text in CORPUS)
    assert (one.dev.texts, one.dev.changed_texts) == (len(CORPUS), changed)
    assert 0 < changed < len(CORPUS)


def test_rare_subwords_are_dropped_if_asked_to(tiny_bert, used, tmp_path):
    sizes, shares = [], []
    for number, options in enumerate([{}, {"min_count": 2}, {"max_size": 200}, {"characters": False}]):
        (one,) = shrink(str(tiny_bert), tmp_path / str(number), corpus=[used], **options).encoders
        sizes.append(one.subwords.after)
        shares.append(one.coverage)
    assert sizes[0] > sizes[1]
    assert sizes[2] == 200
    assert sizes[3] < sizes[0]
    assert shares[0] == shares[3] == 1.0
    assert shares[1] < 1
    assert shares[2] < 1


def test_positions_after_the_padding_stay_where_they_are(tiny_encoder, used, tmp_path):
    """RoBERTa's positions start after the padding's id, so that an unused subword before it stays."""
    folder = shutil.copytree(tiny_encoder("xlm-roberta"), tmp_path / "encoder")
    rewrite(folder / "config.json", pad_token_id=12)
    old = encoder_of(folder)
    assert old.first_position == 13
    shrink(str(folder), tmp_path / "out", corpus=[used], characters=False)
    new = encoder_of(tmp_path / "out")
    assert new.first_position == 13
    assert assert_same_rows(old, new, USED) == len(USED)


# --- heads of checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_for_masked_words_are_cut_as_well(family, used, tmp_path):
    folder = make_encoder(tmp_path / "masked", family, head="AutoModelForMaskedLM")
    shrink(str(folder), tmp_path / "out", corpus=[used], layers=1 if family in LAYERED else None)
    old, new = (load_masked(str(one), EncoderSettings(**CPU)).eval() for one in (folder, tmp_path / "out"))
    assert new.missing == ()
    rows = torch.randn(3, old.encoder.width)
    kept = sorted(old.encoder.tokenizer.token_to_id(one) for one in new.encoder.tokenizer.get_vocab())
    kept = [number for number in kept if number < old.model.config.vocab_size]
    torch.testing.assert_close(new.logits(rows), old.logits(rows)[:, kept])


def test_other_heads_are_kept(tmp_path, used, recwarn):
    folder = make_encoder(tmp_path / "tags", "bert-uncased", head="AutoModelForTokenClassification")
    shrink(str(folder), tmp_path / "out", corpus=[used])
    assert not [one for one in recwarn if "fine-tuned" in str(one.message)]
    old, new = (AutoModelForTokenClassification.from_pretrained(one) for one in (folder, tmp_path / "out"))
    assert torch.equal(new.classifier.weight, old.classifier.weight)
    assert new.config.id2label == old.config.id2label


def test_a_head_that_can_t_be_kept_is_told_of(tmp_path, used):
    folder = make_encoder(tmp_path / "tags", "bert-uncased", head="AutoModelForTokenClassification")
    rewrite(folder / "config.json", architectures=["NobodysForTokenClassification"])
    with pytest.warns(UserWarning, match="is a fine-tuned NobodysForTokenClassification"):
        shrink(str(folder), tmp_path / "out", corpus=[used])
    assert set(load_file(tmp_path / "out/model.safetensors")) == set(
        encoder_of(tmp_path / "out").at_rest().weights_to_save()
    )


# --- pipelines


def test_a_pipeline_gives_the_same_on_texts_that_need_no_dropped_subword(pipeline, report):
    before, after = (list(spacy.load(folder).pipe(TEXTS)) for folder in (pipeline, report.out))
    assert sum(len(doc.ents) for doc in before) > 5
    assert [annotations(doc) for doc in after] == [annotations(doc) for doc in before]
    old, new = (spacy.load(folder).get_pipe("encoder").encoder.eval() for folder in (pipeline, report.out))
    assert assert_same_rows(old, new, [*TEXTS, *HELD_OUT]) >= len(TEXTS)


def test_all_but_the_encoder_and_its_id_is_copied(pipeline, report):
    old, new = files(pipeline), files(report.out)
    assert new.keys() == {name for name in old if not name.endswith("vocab.txt")}
    changed = {name for name in new if old[name] != new[name]}
    assert {"ner/cfg", "textcat/cfg", "encoder/encoder/model.safetensors", "encoder/encoder/tokenizer.json"} <= changed
    assert all(name.startswith("encoder/encoder/") for name in changed - {"ner/cfg", "textcat/cfg"})
    for name in ("ner/cfg", "textcat/cfg"):
        one, other = json.loads(old[name]), json.loads(new[name])
        assert one.pop("save_id") != other.pop("save_id")
        assert one == other


def test_the_encoder_s_id_is_the_heads_and_that_of_its_next_save(report, tmp_path):
    nlp = spacy.load(report.out)
    save_id = nlp.get_pipe("encoder").save_id
    assert json.loads((report.out / "ner/cfg").read_text("utf-8"))["save_id"] == save_id is not None
    nlp.to_disk(tmp_path / "again")
    assert json.loads((tmp_path / "again/ner/cfg").read_text("utf-8"))["save_id"] == save_id
    old = spacy.load(report.source)
    old.get_pipe("encoder").to_disk(tmp_path / "again/encoder")
    with pytest.raises(ConfigError, match="from different saves"):
        spacy.load(tmp_path / "again")


def test_a_pipeline_can_be_trained_further(report, pipeline, tmp_path):
    nlp = spacy.load(report.out)
    optimizer = nlp.resume_training()
    losses = nlp.update(examples(nlp), sgd=optimizer)
    assert np.isfinite(losses["ner"])
    nlp.to_disk(tmp_path / "again")
    assert spacy.load(tmp_path / "again").get_pipe("encoder").encoder.shape.words == report.encoders[0].subwords.after


def test_a_pipeline_can_be_exported_afterwards(report, tmp_path):
    exported = export(report.out, tmp_path / "onnx")
    assert exported.hidden.largest < 1e-4


def test_the_report_has_scores_sizes_and_changed_texts(report, pipeline):
    (one,) = report.encoders
    assert one.name == "encoder"
    assert report.size.before == sum(map(len, files(pipeline).values()))
    assert report.size.after == sum(map(len, files(report.out).values())) < report.size.before
    assert (one.dev.texts, one.dev.changed_texts) == (len(ANNOTATED) + 1, 1)
    scores = {score.name: score for score in report.scores}
    assert scores["cats_score"].before > 50
    assert scores["ents_r"].before >= scores["ents_r"].after > 50
    assert "ents_per_type.CITY.f" in {score.name for score in report.label_scores}


def test_layers_of_a_pipeline_are_dropped_and_its_heads_kept(pipeline, data, tmp_path):
    report = shrink(pipeline, tmp_path / "out", layers=(1,), dev=data)
    (one,) = report.encoders
    assert (one.kept_layers, one.dev, one.coverage, report.train_again) == ((1,), None, None, True)
    assert {score.name for score in report.scores} >= {"ents_f", "cats_score"}
    old, new = files(pipeline), files(report.out)
    assert all(old[f"{name}/model.safetensors"] == new[f"{name}/model.safetensors"] for name in ("ner", "textcat"))
    assert spacy.load(report.out).get_pipe("encoder").encoder.shape.layers == 1


def test_every_encoder_of_a_pipeline_is_cut_and_disabled_components_stay(tiny_bert, tiny_encoder, data, tmp_path):
    nlp = trained(tiny_bert)
    nlp.rename_pipe("encoder", "first")
    other = trained(tiny_encoder("roberta"), {"names": "bertft_ner"})
    nlp.add_pipe("encoder", source=other, name="second")
    nlp.add_pipe("names", source=other, name="names")
    nlp.disable_pipe("ner")
    nlp.to_disk(tmp_path / "two")
    notes = []
    report = shrink(tmp_path / "two", tmp_path / "out", corpus=[data], note=notes.append)
    assert [one.name for one in report.encoders] == ["first", "second"]
    assert all(one.subwords.after < one.subwords.before for one in report.encoders)
    assert notes[:2] == ["counting subwords for first", "counting subwords for second"]
    again = spacy.load(tmp_path / "out")
    assert again.disabled == ["ner"]
    found, expected = (list(one.pipe(TEXTS)) for one in (again, spacy.load(tmp_path / "two")))
    assert [annotations(doc) for doc in found] == [annotations(doc) for doc in expected]


def test_a_masked_language_model_in_a_pipeline_is_cut_with_its_head(used, tmp_path):
    folder = make_encoder(tmp_path / "masked", "bert-uncased", head="AutoModelForMaskedLM")
    nlp = spacy.blank("en")
    nlp.add_pipe("bertft_mlm", name="mask", config={"model": str(folder), "device": "cpu"})
    nlp.initialize()
    nlp.to_disk(tmp_path / "pipeline")
    report = shrink(tmp_path / "pipeline", tmp_path / "out", corpus=[used])
    assert report.encoders[0].name == "mask"
    text = "Anna lives in [MASK] and works"
    old, new = (FillMask.load(str(tmp_path / one / "mask/model")) for one in ("pipeline", "out"))
    kept = set(new.model.encoder.tokenizer.get_vocab())
    (before,), (after,) = (one.fill([text], top=1000)[0] for one in (old, new))
    wanted = [one.text for one in before.candidates if one.text in kept and f"##{one.text}" not in kept]
    assert [one.text for one in after.candidates if one.text in wanted] == wanted
    assert len(wanted) > 10
    doc = spacy.load(tmp_path / "out")(text)
    assert len(doc.spans["masks"][0]._.candidates) == 5


# --- refusals


def test_nothing_to_do_is_refused(tiny_bert, tmp_path, used):
    with pytest.raises(ConfigError, match=r"nothing to shrink.* Expected a corpus.*--layers"):
        shrink(str(tiny_bert), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"there is no corpus\. Expected texts to count"):
        shrink(str(tiny_bert), tmp_path / "out", layers=1, max_size=100)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"layers": 3}, ConfigError, "layers is 3, of an encoder with 2"),
        ({"max_size": 3}, ConfigError, "max_size is 3, but"),
        ({"corpus": ["missing.txt"]}, DataError, "were not found"),
    ],
)
def test_a_plan_that_can_t_be_done_writes_nothing(tiny_bert, tmp_path, used, options, error, said):
    with pytest.raises(error, match=said):
        shrink(str(tiny_bert), tmp_path / "out", **{"corpus": [used], **options})
    assert list(tmp_path.iterdir()) == []


def test_layers_of_another_family_are_refused(tiny_encoder, tmp_path):
    with pytest.raises(EncoderError, match="family modernbert, whose layers can't be dropped"):
        shrink(str(tiny_encoder("modernbert")), tmp_path / "out", layers=1)


def test_an_adapter_is_refused_and_its_base_named(tiny_bert, data, tmp_path):
    lora = {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 2, "save": "adapter"}
    initialized(tiny_bert, component={"tuning": lora}).to_disk(tmp_path / "pipeline")
    with pytest.raises(ConfigError, match=r"'encoder' is an adapter for .*bert-uncased.* Expected .* own.*\"merged\""):
        shrink(tmp_path / "pipeline", tmp_path / "out", corpus=[data])
    assert not (tmp_path / "out").exists()


def test_a_pipeline_for_onnx_runtime_is_refused(pipeline, data, tmp_path):
    export(pipeline, tmp_path / "onnx")
    with pytest.raises(
        ConfigError, match=r"exported for ONNX Runtime.* Expected the trained pipeline.*export it again"
    ):
        shrink(tmp_path / "onnx", tmp_path / "out", corpus=[data])


def test_a_pipeline_without_an_encoder_is_refused(data, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "pipeline")
    with pytest.raises(ConfigError, match=r"no bertft_encoder and no bertft_mlm \(found: sentencizer\)\. Expected"):
        shrink(tmp_path / "pipeline", tmp_path / "out", corpus=[data])


def test_an_encoder_inside_of_another_component_is_told_of(tiny_bert, data, tmp_path):
    listener = {"@architectures": "spacy-bertft.Listener.v1"}
    nlp = blank(tiny_bert, {"ner": "bertft_ner"})
    nlp.add_pipe("tagger", config={"model": {"tok2vec": listener}})

    def tagged():
        for example in examples(nlp):
            for token in example.reference:
                token.tag_ = "X"
            yield example

    nlp.initialize(tagged)
    nlp.replace_listeners("encoder", "tagger", ["model.tok2vec"])
    nlp.to_disk(tmp_path / "pipeline")
    notes = []
    shrink(tmp_path / "pipeline", tmp_path / "out", corpus=[data], note=notes.append)
    assert notes[0] == "encoders inside of other components (spacy-bertft.Tok2Vec.v1) stay as they are"
    found, expected = (spacy.load(tmp_path / one)(TEXTS[0]) for one in ("out", "pipeline"))
    assert [token.tag_ for token in found] == [token.tag_ for token in expected]
    nlp.remove_pipe("ner")
    nlp.remove_pipe("encoder")
    nlp.to_disk(tmp_path / "alone")
    with pytest.raises(ConfigError, match=r"A component with an encoder of its own .* is not one"):
        shrink(tmp_path / "alone", tmp_path / "out2", corpus=[data])


# --- where it is written


def test_an_output_in_use_needs_overwrite(tiny_bert, used, pipeline, tmp_path):
    out = tmp_path / "out"
    shrink(str(tiny_bert), out, corpus=[used])
    before = files(out)
    with pytest.raises(ConfigError, match=r"holds an encoder already.*--overwrite"):
        shrink(str(tiny_bert), out, layers=1)
    assert files(out) == before
    shrink(str(tiny_bert), out, layers=1, overwrite=True)
    assert encoder_of(out).shape.layers == 1
    with pytest.raises(ConfigError, match="holds something other than a pipeline"):
        shrink(pipeline, out, corpus=[used], overwrite=True)
    with pytest.raises(ConfigError, match=r"is the pipeline .* itself"):
        shrink(pipeline, pipeline, corpus=[used], overwrite=True)


def test_docs_are_counted_with_their_white_space(tiny_encoder, tmp_path):
    """In byte-level vocabularies line breaks are subwords: a .spacy file's texts are whole, not lines."""
    nlp = spacy.blank("en")
    text = "Anna lives\n\nin  Berlin"
    DocBin(docs=[nlp(text)]).to_disk(tmp_path / "one.spacy")
    shrink(str(tiny_encoder("roberta")), tmp_path / "out", corpus=[tmp_path / "one.spacy"])
    assert assert_same_rows(encoder_of(tiny_encoder("roberta")), encoder_of(tmp_path / "out"), [text]) == 1
