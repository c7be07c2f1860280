"""`export`: the pipeline it writes, the report, the refusals; what the exported pipeline can do in spaCy."""

from __future__ import annotations

import copy
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import spacy
from encoders import LONG, ODD
from pipelines import TEXTS, annotations, blank, examples, initialized, trained
from spacy.cli.package import package
from spacy.cli.train import train
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.util import load_config
from tiny import make_encoder

from spacy_bertft import pair_doc
from spacy_bertft.components.doc_texts import texts_of
from spacy_bertft.engines import onnx_int8
from spacy_bertft.errors import ConfigError, DataError, EncoderError
from spacy_bertft.export import Change, DroppedError, export
from spacy_bertft.jobs.evaluate import read_examples
from spacy_bertft.jobs.export import compare

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
GRAPH = "encoder/encoder/model.onnx"
SOME = [*TEXTS, LONG, *(text for text in ODD.values() if text)]


@pytest.fixture(scope="module", autouse=True)
def short_measurements():
    """Times are not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "SAMPLE_WORDS", 100)
        patch.setattr(compare, "ROUNDS", 1)
        yield


@pytest.fixture(scope="module")
def pipeline(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "pipeline"
    trained(tiny_bert).to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def dev(tmp_path_factory):
    path = tmp_path_factory.mktemp("dev") / "dev.spacy"
    DocBin(docs=[eg.reference for eg in examples(spacy.blank("en"))], store_user_data=True).to_disk(path)
    return path


@pytest.fixture(scope="module")
def report(pipeline, dev):
    return export(pipeline, pipeline.with_name("float32"), dev=dev)


@pytest.fixture(scope="module")
def small_report(pipeline, dev):
    return export(pipeline, pipeline.with_name("int8"), int8=True, dev=dev, tolerance=5)


@pytest.fixture
def exported(report, tmp_path):
    """A copy of an exported pipeline."""
    return shutil.copytree(report.out, tmp_path / "exported")


def assert_same(found, expected, tolerance=1e-4):
    """The same annotations, scores up to rounding."""
    for one, other in zip(found, expected, strict=True):
        ents, cats = annotations(one)
        other_ents, other_cats = annotations(other)
        assert [ent[:3] for ent in ents] == [ent[:3] for ent in other_ents]
        assert [ent[3] for ent in ents] == pytest.approx([ent[3] for ent in other_ents], abs=tolerance)
        assert cats == pytest.approx(other_cats, abs=tolerance)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what is written


def test_annotations_are_those_of_the_trained_pipeline(pipeline, report):
    docs = [list(spacy.load(folder).pipe(SOME)) for folder in (pipeline, report.out)]
    assert sum(len(doc.ents) for doc in docs[0]) > 5
    assert_same(docs[1], docs[0])


def test_int8_annotates_the_examples_alike(pipeline, small_report):
    docs = [list(spacy.load(folder).pipe(TEXTS)) for folder in (pipeline, small_report.out)]
    assert_same(docs[1], docs[0], tolerance=0.1)


@pytest.mark.parametrize("made", ["report", "small_report"])
def test_all_but_the_encoder_is_copied(pipeline, made, request):
    old, new = files(pipeline), files(request.getfixturevalue(made).out)
    assert new.keys() == old.keys() - {"encoder/encoder/model.safetensors"} | {GRAPH}
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    assert changed == {"config.cfg", "meta.json"}
    config, other = (load_config(folder / "config.cfg") for folder in (pipeline, request.getfixturevalue(made).out))
    assert other["components"]["encoder"]["model"]["backend"] == "onnxruntime"
    config["components"]["encoder"]["model"]["backend"] = "onnxruntime"
    assert config == other
    meta, other = json.loads(old["meta.json"]), json.loads(new["meta.json"])
    assert [line.partition(">")[0] for line in other.pop("requirements")] == ["spacy-bertft-core[onnx]"]
    assert [line.partition(">")[0] for line in meta.pop("requirements")] == ["spacy-bertft-core[train]"]
    assert meta == other


def test_int8_takes_less_space_than_float32(report, small_report):
    sizes = [(one.out / GRAPH).stat().st_size for one in (report, small_report)]
    assert sizes[1] < 0.7 * sizes[0]


def test_variables_of_the_config_stay_variables(pipeline, report):
    lines = [(folder / "config.cfg").read_text("utf-8") for folder in (pipeline, report.out)]
    assert lines[0].count("${") == lines[1].count("${") > 0


def test_requirements_of_a_pipeline_are_kept(pipeline, tmp_path):
    source = shutil.copytree(pipeline, tmp_path / "source")
    meta = json.loads((source / "meta.json").read_text("utf-8"))
    (source / "meta.json").write_text(json.dumps(meta | {"requirements": ["other>=1", "spacy_bertft>=0.1"]}), "utf-8")
    export(source, tmp_path / "out")
    found = json.loads((tmp_path / "out/meta.json").read_text("utf-8"))["requirements"]
    assert found[0] == "other>=1"
    assert [line.partition(">")[0] for line in found[1:]] == ["spacy-bertft-core[onnx]"]


def test_all_encoders_are_exported_and_disabled_components_stay(tiny_bert, tiny_encoder, tmp_path):
    nlp = trained(tiny_bert)
    expected = [annotations(doc)[1] for doc in nlp.pipe(TEXTS)]
    nlp.rename_pipe("encoder", "first")
    other = trained(tiny_encoder("roberta"), {"names": "bertft_ner"})
    nlp.add_pipe("encoder", source=other, name="second")
    nlp.add_pipe("names", source=other, name="names")
    nlp.disable_pipe("ner")
    nlp.to_disk(tmp_path / "two")
    report = export(tmp_path / "two", tmp_path / "out")
    assert report.encoders == ("first", "second")
    assert report.hidden.largest < 1e-4
    again = spacy.load(tmp_path / "out")
    assert again.disabled == ["ner"]
    assert not any(again.get_pipe(name).encoder.trainable for name in report.encoders)
    found = list(again.pipe(TEXTS))
    for doc, cats in zip(found, expected, strict=True):
        assert annotations(doc)[1] == pytest.approx(cats, abs=1e-4)
    assert_same(found, spacy.load(tmp_path / "two").pipe(TEXTS))


# --- the report


def test_float32_changes_nothing_but_rounding(report, pipeline, dev):
    assert 0 < report.hidden.mean <= report.hidden.largest < 1e-4
    assert 0.1 < report.hidden.size < 10
    assert report.hidden.texts == len(TEXTS)
    assert all(score.difference == pytest.approx(0, abs=1e-9) for score in report.scores + report.label_scores)
    assert (report.pipeline, report.dev, report.int8, report.encoders) == (pipeline, dev, False, ("encoder",))
    assert report.dropped == ()


def test_int8_differs_more(report, small_report):
    assert small_report.int8
    assert small_report.hidden.mean > 100 * report.hidden.mean
    assert small_report.hidden.mean < 0.1 * small_report.hidden.size
    assert small_report.hidden.largest > small_report.hidden.mean


def test_scores_are_those_of_nlp_evaluate_in_points(report, pipeline, dev):
    nlp = spacy.load(pipeline)
    expected = nlp.evaluate(read_examples(nlp, dev))
    found = {score.name: score for score in report.scores}
    for name in ("ents_p", "ents_r", "ents_f", "cats_score", "cats_micro_f", "cats_macro_f", "cats_macro_auc"):
        assert found[name].before == found[name].after == 100 * expected[name]
    assert "speed" not in found
    assert not any("per_type" in name for name in found)
    labels = {score.name: score.before for score in report.label_scores}
    assert labels["ents_per_type.CITY.f"] == labels["cats_f_per_type.home.f"] == 100.0


def test_sizes_and_speeds_are_of_the_whole_pipelines(report):
    assert report.size.before == sum(map(len, files(report.pipeline).values()))
    assert report.size.after == sum(map(len, files(report.out).values()))
    assert report.speed.before > 0
    assert report.speed.after > 0


def test_without_a_dev_set_the_built_in_texts_are_compared(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "SAMPLE_WORDS", 10_000)
    report = export(pipeline, tmp_path / "out")
    assert report.dev is None
    assert report.scores == report.label_scores == report.dropped == ()
    assert report.hidden.texts == len(compare.OWN_TEXTS) > 5


def test_a_sample_ends_when_it_has_enough_words(monkeypatch):
    monkeypatch.setattr(compare, "SAMPLE_WORDS", 4)
    nlp = spacy.blank("en")

    def sample(*texts):
        return [doc.text for doc in compare.sample(nlp, [Example(nlp(text), nlp(text)) for text in texts])]

    assert sample("a b", "c d", "e f") == ["a b", "c d"]
    assert sample("a b c d e f", "g") == ["a b c d e f"]
    assert sample("a") == ["a"]


@pytest.mark.parametrize("head", ["bertft_pair", "bertft_qa"])
def test_heads_of_two_segments_are_compared_on_pairs(tiny_bert, tmp_path, monkeypatch, head):
    monkeypatch.setattr(compare, "SAMPLE_WORDS", 10_000)
    nlp = blank(tiny_bert, {"head": head})
    doc = pair_doc(nlp, "Where is it?", "It is here.")
    doc.cats = {"yes": 1.0, "no": 0.0}
    doc.spans["answers"] = [doc[7:8]]
    nlp.initialize(lambda: [Example(pair_doc(nlp, "Where is it?", "It is here."), doc)])
    nlp.to_disk(tmp_path / "pipeline")
    report = export(tmp_path / "pipeline", tmp_path / "out")
    assert report.hidden.texts == len(compare.OWN_TEXTS) - 1
    assert report.hidden.mean < 1e-5
    assert report.speed.after > 0


def test_a_folder_of_dev_files_is_read(pipeline, dev, tmp_path):
    shutil.copy(dev, tmp_path / "one.spacy")
    (tmp_path / "more").mkdir()
    shutil.copy(dev, tmp_path / "more/two.spacy")
    assert len(read_examples(spacy.blank("en"), tmp_path)) == 2 * len(TEXTS)


@pytest.mark.parametrize(
    ("before", "after", "tolerance", "dropped"),
    [
        (80.0, 79.5, 0.5, False),
        (80.0, 79.49, 0.5, True),
        (80.0, 90.0, 0.0, False),
        (80.0, 80.0, 0.0, False),
        (80.0, 80.0 - 1e-9, 0.0, False),
        (80.0, 79.99, 0.0, True),
    ],
)
def test_a_score_has_dropped_beyond_the_tolerance(report, before, after, tolerance, dropped):
    score = Change("ents_f", before, after)
    label = Change("ents_per_type.CITY.f", 100.0, 0.0)
    found = replace(report, scores=(score,), label_scores=(label,), tolerance=tolerance).dropped
    assert found == ((score,) if dropped else ())


# --- refusals


@pytest.fixture
def coarse(monkeypatch):
    """An int8 that ruins everything: all weights become 0."""
    quantise = onnx_int8.quantise_weight

    monkeypatch.setattr(onnx_int8, "quantise_weight", lambda weight, _: quantise(0 * weight))


def test_a_drop_is_refused_and_nothing_is_left(coarse, pipeline, dev, tmp_path):
    before = files(pipeline)
    with pytest.raises(DroppedError) as caught:
        export(pipeline, tmp_path / "new" / "out", int8=True, dev=dev)
    worst = min(caught.value.report.scores, key=lambda score: score.difference)
    assert worst.difference < -10
    message = str(caught.value)
    assert (
        f"{worst.name} fell from {worst.before:.2f} to {worst.after:.2f}, by {-worst.difference:.2f} points" in message
    )
    for part in (str(dev), "at most 0.5 points", "--tolerance", "was not written", "without --int8", "--force"):
        assert part in message
    assert list(tmp_path.iterdir()) == []
    assert files(pipeline) == before


def test_a_drop_in_float32_is_not_blamed_on_int8(report):
    dropped = replace(report, scores=(Change("ents_f", 80.0, 70.0),))
    assert "--int8" not in str(DroppedError(dropped))


def test_force_writes_it_all_the_same(coarse, pipeline, dev, tmp_path):
    report = export(pipeline, tmp_path / "out", int8=True, dev=dev, force=True)
    assert report.dropped
    assert spacy.load(tmp_path / "out").evaluate(examples(spacy.blank("en")))["cats_score"] < 1


def test_a_larger_tolerance_lets_it_through(coarse, pipeline, dev, tmp_path):
    report = export(pipeline, tmp_path / "out", int8=True, dev=dev, tolerance=100)
    assert not report.dropped
    assert (tmp_path / "out" / GRAPH).exists()


@pytest.mark.parametrize("tolerance", [-0.1, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(pipeline, tmp_path, tolerance):
    with pytest.raises(ConfigError, match=r"tolerance is .*; expected a number of points, 0 or more.*--force"):
        export(pipeline, tmp_path / "out", tolerance=tolerance)


def test_a_pipeline_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere' is not a folder \(.*Expected a pipeline that spaCy saved.*Give"):
        export(tmp_path / "nowhere", tmp_path / "out")


def test_a_folder_that_is_no_pipeline(tiny_bert, tmp_path):
    with pytest.raises(
        ConfigError, match=r"has no config\.cfg; found config\.json, model\.safetensors.*Expected a pipel"
    ):
        export(tiny_bert, tmp_path / "out")


def test_a_pipeline_without_an_encoder(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "pipeline")
    with pytest.raises(ConfigError, match=r"has no bertft_encoder \(found: sentencizer\)\. Expected at least one"):
        export(tmp_path / "pipeline", tmp_path / "out")


def test_a_pipeline_that_was_exported_already(report, tmp_path):
    with pytest.raises(ConfigError, match=r"'encoder' of .* was exported already\. Expected the trained pip"):
        export(report.out, tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("config", r"could not be loaded: .* Expected one that spacy\.load\(\) takes.*--code"),
        ("head", r"ner/cfg' is not JSON: .* Expected the cfg of a saved head"),
    ],
    ids=["config", "head"],
)
def test_a_damaged_pipeline(pipeline, tmp_path, damage, said):
    source = shutil.copytree(pipeline, tmp_path / "source")
    if damage == "config":
        (source / "config.cfg").write_text("[nlp\n", "utf-8")
    else:
        (source / "ner/cfg").write_text("{", "utf-8")
    with pytest.raises(ConfigError, match=said):
        export(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_can_t_be_exported(tmp_path):
    folder = make_encoder(tmp_path / "encoder", "bert-uncased", hidden_act="silu")
    initialized(folder).to_disk(tmp_path / "pipeline")
    with pytest.raises(ConfigError, match=r"'encoder' is of the family bert, or .* Expected one of albert, bert, cam"):
        export(tmp_path / "pipeline", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "pipeline"]


def test_a_dev_set_that_is_not_there(pipeline, tmp_path):
    with pytest.raises(DataError, match=r"dev\.spacy' were not found .*Expected a \.spacy file.*Correct the path"):
        export(pipeline, tmp_path / "out", dev=tmp_path / "dev.spacy")


def test_a_dev_set_of_another_format(pipeline, tmp_path):
    (tmp_path / "dev.jsonl").write_text("{}", "utf-8")
    with pytest.raises(DataError, match=r"dev\.jsonl:1: found no text under 'text'.*expected a string"):
        export(pipeline, tmp_path / "out", dev=tmp_path / "dev.jsonl")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"dev\.spacy: found no records"),
        (b"garbage" * 10, r"dev\.spacy' could not be read: .* Expected a \.spacy file.*Make it again"),
    ],
)
def test_a_dev_set_that_is_damaged(pipeline, tmp_path, content, said):
    (tmp_path / "dev.spacy").write_bytes(content)
    with pytest.raises(DataError, match=said):
        export(pipeline, tmp_path / "out", dev=tmp_path / "dev.spacy")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_dev_set_without_texts(pipeline, tmp_path, kind):
    path = tmp_path / "dev"
    if kind == "folder":
        path.mkdir()
    else:
        path = tmp_path / "dev.spacy"
        DocBin().to_disk(path)
    with pytest.raises(DataError, match=r"hold no texts\. Expected annotated texts\. Correct the path"):
        export(pipeline, tmp_path / "out", dev=path)
    assert not (tmp_path / "out").exists()


# --- where it is written


def test_an_output_that_is_a_pipeline_needs_overwrite(exported, pipeline):
    (exported / "old").touch()
    before = files(exported)
    with pytest.raises(ConfigError, match=r"holds a pipeline already\. Expected a path that is free.*--overwrite"):
        export(pipeline, exported)
    assert files(exported) == before
    export(pipeline, exported, overwrite=True)
    assert not (exported / "old").exists()
    assert spacy.load(exported)(TEXTS[1]).ents
    assert [path.name for path in exported.parent.iterdir()] == ["exported"]


def test_what_was_there_stays_when_an_export_fails(coarse, exported, pipeline, dev):
    before = files(exported)
    with pytest.raises(DroppedError):
        export(pipeline, exported, overwrite=True, int8=True, dev=dev)
    assert files(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["exported"]


def test_what_was_there_comes_back_when_it_can_t_be_replaced(exported, pipeline, monkeypatch):
    before = files(exported)
    original = os.replace

    def failing(source, target):
        if Path(source).name == "new":
            raise OSError(28, "No space left on device")
        return original(source, target)

    monkeypatch.setattr("os.replace", failing)
    with pytest.raises(ConfigError, match=r"can't be written: .*No space left.* Expected a folder .*Check the path"):
        export(pipeline, exported, overwrite=True)
    assert files(exported) == before
    assert [path.name for path in exported.parent.iterdir()] == ["exported"]


def test_a_folder_with_other_things_is_never_replaced(pipeline, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"holds something other than a pipeline \(thesis\.txt\)\. Expected a"):
        export(pipeline, tmp_path, overwrite=True)


def test_an_output_that_is_a_file(pipeline, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match=r"out' is a file\. Expected a folder"):
        export(pipeline, tmp_path / "out", overwrite=True)


def test_an_empty_folder_is_filled(pipeline, tmp_path):
    (tmp_path / "out").mkdir()
    export(pipeline, tmp_path / "out")
    assert spacy.load(tmp_path / "out")(TEXTS[1]).ents


@pytest.mark.parametrize("out", [".", "inside", ".."])
def test_the_trained_pipeline_is_never_written_to(pipeline, out):
    before = files(pipeline)
    with pytest.raises(ConfigError, match=r"is the pipeline .* itself, or one lies in the other\. Expected another"):
        export(pipeline, pipeline / out, overwrite=True)
    assert files(pipeline) == before


def test_an_interrupted_export_leaves_nothing(pipeline, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "speed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(pipeline, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- an exported pipeline in spaCy


def test_copies_work_also_when_the_files_are_gone(exported):
    nlp = spacy.load(exported)
    pipe = nlp.get_pipe("encoder")
    docs = [nlp.make_doc(text) for text in TEXTS]
    expected = pipe.predict(docs).hidden
    twin, encoder = copy.deepcopy(pipe), copy.deepcopy(pipe.encoder)
    shutil.rmtree(exported, ignore_errors=True)
    twin.predict(docs)
    assert twin.encoder is not pipe.encoder
    assert not encoder.trainable
    for found in (twin.predict(docs), copy.deepcopy(twin).predict(docs), encoder.predict(texts_of(docs))):
        np.testing.assert_allclose(found.hidden, expected, atol=1e-5)


def test_components_can_be_sourced(exported):
    nlp = spacy.blank("en")
    source = spacy.load(exported)
    for name in ("encoder", "ner", "textcat"):
        nlp.add_pipe(name, source=source)
    assert_same(nlp.pipe(TEXTS), source.pipe(TEXTS))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # spaCy leaves files open
def test_packages_ask_for_onnxruntime(exported, tmp_path, capsys):
    package(exported, tmp_path, create_sdist=False, create_wheel=False, name="tiny", version="1.0.0")
    folder = tmp_path / "en_tiny-1.0.0"
    asked = json.loads((folder / "meta.json").read_text("utf-8"))["requirements"]
    assert [line for line in asked if line.startswith("spacy-bertft")] == asked
    assert asked[0].startswith("spacy-bertft-core[onnx]>=")
    assert_same(spacy.load(folder / "en_tiny" / "en_tiny-1.0.0").pipe(TEXTS), spacy.load(exported).pipe(TEXTS))


def test_without_onnx_nothing_is_left(pipeline, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EncoderError, match=r"needs the package onnx"):
        export(pipeline, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- training it


def _sourcing(exported, tmp_path, **training):
    config = load_config(ROOT / "configs/ner_textcat.cfg")
    config["components"]["encoder"] = {"source": str(exported)}
    config["training"] |= {"max_steps": 3, **training}
    corpus = tmp_path / "corpus.spacy"
    DocBin(docs=[eg.reference for eg in examples(spacy.blank("en"))]).to_disk(corpus)
    config["paths"] |= {"train": str(corpus), "dev": str(corpus)}
    config.to_disk(tmp_path / "train.cfg")
    return tmp_path / "train.cfg"


def test_spacy_train_says_that_its_encoder_can_t_be_trained(exported, tmp_path):
    with pytest.raises(ConfigError, match=r"exported to ONNX Runtime and can't be trained.*export it again"):
        train(_sourcing(exported, tmp_path), tmp_path / "out")


def test_heads_train_on_a_frozen_one(exported, tmp_path):
    train(_sourcing(exported, tmp_path, frozen_components=["encoder"]), tmp_path / "out")
    model = tmp_path / "out/model-last"
    assert (model / GRAPH).read_bytes() == (exported / GRAPH).read_bytes()
    assert spacy.load(model)(TEXTS[0]).cats
