"""Misspelt settings, settings that nothing reads, and data that are not there."""

from __future__ import annotations

import pytest
from runs import CONFIGS
from spacy.language import DEFAULT_CONFIG
from spacy.util import load_config, load_config_from_str

from spacy_bertft.errors import ConfigError, DataError
from spacy_bertft.jobs.config_check import check_config, check_files, check_overrides

pytestmark = pytest.mark.touches_transformers

CONFIG = """
[paths]
train = null
dev = null
other = "x"

[nlp]
lang = "en"
pipeline = ["encoder", "ner", "sentencizer"]

[components]

[components.encoder]
factory = "bertft_encoder"

[components.encoder.model]
@architectures = "spacy-bertft.Encoder.v1"
name = "bert-base-cased"

[components.ner]
factory = "bertft_ner"

[components.sentencizer]
factory = "sentencizer"

[corpora]

[corpora.train]
@readers = "spacy.Corpus.v1"
path = ${paths.train}

[corpora.dev]
@readers = "spacy.Corpus.v1"
path = ${paths.dev}

[training]
eval_frequency = 10

[training.batcher]
@batchers = "spacy.batch_by_sequence.v1"
size = 16
"""


def config(text=CONFIG, **changes):
    for old, new in changes.items():
        text = text.replace(old, new)
    return load_config_from_str(text)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("training.eval_freq", "training.eval_frequency"),
        ("training.max_epoch", "training.max_epochs"),
        ("components.encoder.name", "components.encoder.model.name"),
        ("components.encoder.model.nam", "components.encoder.model.name"),
        ("components.ner.pool", "components.ner.pooling"),
        ("components.nre.pooling", "components.ner.pooling"),
        ("training.batcher.sise", "training.batcher.size"),
        ("trainig.dropout", "training.dropout"),
        ("paths.trian", "paths.train"),
        ("nlp.batchsize", "nlp.batch_size"),
        ("corpora.dev.pth", "corpora.dev.path"),
    ],
)
def test_an_override_that_nothing_reads_is_refused_with_what_was_meant(override, meant):
    with pytest.raises(ConfigError, match=f"--{override}: did you mean --{meant}\\?"):
        check_overrides(config(), {override: 1})


@pytest.mark.parametrize("override", ["initialize.foo", "system.foo", "training.batcher.foo", "foo.bar"])
def test_one_that_is_like_nothing_is_refused_too(override):
    with pytest.raises(ConfigError, match=f"--{override}: nothing has a similar name"):
        check_overrides(config(), {override: 1})


@pytest.mark.parametrize(
    "override",
    [
        "training.patience",  # spaCy's default, not in this file
        "training.optimizer.learn_rate",
        "training.score_weights.my_score",
        "components.ner.scheme",  # the component's
        "components.encoder.model.window",  # the function's
        "components.sentencizer.anything",  # of another package: spaCy says what it doesn't take
        "paths.other",
        "nlp.batch_size",
        "initialize.vectors",
        "system.seed",
        "training.batcher.get_length",
    ],
)
def test_settings_of_defaults_functions_and_variables_are_let_through(override):
    check_overrides(config(), {override: 1})


def test_a_function_that_an_override_names_is_the_one_that_counts():
    batcher = {"training.batcher.@batchers": "spacy-bertft.batch_by_subwords.v1", "training.batcher.min_texts": 4}
    check_overrides(config(), batcher)
    with pytest.raises(ConfigError, match="min_texts"):
        check_overrides(config(), {"training.batcher.min_texts": 4})


@pytest.mark.parametrize(
    ("changes", "found", "meant"),
    [
        ({"eval_frequency": "eval_freq"}, "training.eval_freq", "training.eval_frequency"),
        ({"lang =": "batch_sise = 3\nlang ="}, "nlp.batch_sise", "nlp.batch_size"),
        ({"[corpora": "[copora"}, "copora", "corpora"),
        (
            {'"bertft_encoder"': '"bertft_encoder"\nname = "x"'},
            "components.encoder.name",
            "components.encoder.model.name",
        ),
    ],
)
def test_a_misspelt_setting_of_the_config_is_refused(changes, found, meant):
    with pytest.raises(ConfigError, match=f"\n  {found}: did you mean {meant}\\?"):
        check_config(config(**changes))


def test_what_a_variable_refers_to_is_read():
    text = CONFIG.replace("eval_frequency = 10", "eval_frequency = ${training.eval_freq}\neval_freq = 10")
    text = text.replace("size = 16", "size = ${mine:size}") + "\n[mine]\nsize = 16\n"
    assert check_config(config(text)) == []


def test_corpora_may_have_another_section():
    text = CONFIG.replace("[corpora", "[data").replace(
        "eval_frequency", 'train_corpus = "data.train"\ndev_corpus = "data.dev"\neval_frequency'
    )
    assert check_config(config(text)) == []


def test_what_is_like_nothing_is_only_said():
    unused = '[components.unused]\nfactory = "ner"\n\n[components.sent'
    text = CONFIG.replace('"sentencizer"]', '"tagger"]').replace("[components.sent", unused)
    text += "\n[notes]\nabout = 1\n\n[training.score_weights]\nents_g = 1.0\n"
    *said, score = check_config(config(text))
    assert said == [
        "Nothing reads notes in the config.",
        "[components.sentencizer] is not in the pipeline of the config.",
        "[components.unused] is not in the pipeline of the config.",
    ]
    assert "has the score ents_g ([training.score_weights]): did you mean ents_" in score


def test_the_configs_to_start_from_and_spacy_s_own_pass():
    paths = [path for path in CONFIGS.glob("*.cfg") if "[components]" in path.read_text(encoding="utf-8")]
    assert len(paths) >= 9
    for path in paths:
        assert check_config(load_config(path)) == []
    assert check_config(DEFAULT_CONFIG.copy()) == []


def test_checking_changes_nothing():
    found = config()
    before = found.to_str(interpolate=False)
    check_overrides(found, {"training.batcher.@batchers": "spacy.batch_by_words.v1"})
    check_config(found)
    assert found.to_str(interpolate=False) == before


def test_data_without_a_path_and_data_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"training data have no path: .* Give it with --paths\.train FILE"):
        check_files(config())
    (tmp_path / "train.spacy").touch()
    train = f'train = "{(tmp_path / "train.spacy").as_posix()}"'
    with pytest.raises(ConfigError, match=r"development data have no path: .* --paths\.dev FILE"):
        check_files(config(**{"train = null": train}))
    missing = f'dev = "{(tmp_path / "dev.spacy").as_posix()}"'
    with pytest.raises(
        DataError, match=r"development data '.*dev\.spacy' were not found .* Correct corpora\.dev\.path"
    ):
        check_files(config(**{"train = null": train, "dev = null": missing}))
    (tmp_path / "dev.spacy").mkdir()
    check_files(config(**{"train = null": train, "dev = null": missing}))


def test_a_split_of_a_data_set_is_there_for_our_reader_alone(tmp_path):
    (tmp_path / "set").mkdir()
    paths = {f"{name} = null": f'{name} = "{(tmp_path / "set").as_posix()}:{name}"' for name in ("train", "dev")}
    check_files(config(**paths, **{"spacy.Corpus.v1": "spacy-bertft.Corpus.v1"}))
    with pytest.raises(DataError, match=r"training data '.*set:train' were not found"):
        check_files(config(**paths))


def test_a_path_without_a_variable_is_given_by_its_own_name():
    with pytest.raises(ConfigError, match=r"--corpora\.train\.path FILE"):
        check_files(config(**{"${paths.train}": "null"}))


def test_other_readers_are_left_to_themselves():
    check_files(config(**{"spacy.Corpus.v1": "other.Corpus.v1"}))
