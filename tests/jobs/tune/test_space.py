"""Spaces: what a file says, and what is refused; the config they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy

from spacy_bertft.errors import ConfigError
from spacy_bertft.jobs.tune.configs import differences, filled_config, settings_of, with_values
from spacy_bertft.jobs.tune.space import Choices, Range, read_space, space_text

NER = Path(__file__).parents[3] / "configs/ner.cfg"
LORA = '{"@misc": "spacy-bertft.LoraTuning.v1", "rank": 16}'
TUNING = "components.encoder.tuning"


@pytest.fixture(scope="module")
def config():
    return filled_config(NER, {"paths.train": "train.spacy"})


@pytest.fixture
def read(config, tmp_path):
    def read(text):
        path = tmp_path / "space.cfg"
        path.write_text(text, encoding="utf-8")
        return read_space(path, settings_of(config))

    return read


FULL = f"""
# Comments are allowed.
[training.optimizer.learn_rate.initial_rate]
low = 1e-5
high = 3e-4
log = true

[training.max_epochs]
low = 2
high = 8
step = 2

[training.dropout]
low = 0
high = 1

[{TUNING}]
choices = [
    {{"@misc": "spacy-bertft.FullTuning.v1"}},
    {LORA}
    ]

[components.encoder.model.window]
choices = [null, 128]
"""


def test_a_file_is_read_by_the_kinds_of_the_config_s_values(read):
    rate, epochs, dropout, tuning, window = read(FULL)
    assert rate == Range("training.optimizer.learn_rate.initial_rate", 1e-5, 3e-4, whole=False, log=True)
    assert epochs == Range("training.max_epochs", 2, 8, whole=True, step=2)
    assert dropout == Range("training.dropout", 0.0, 1.0, whole=False)
    assert isinstance(dropout.low, float)
    assert tuning.options == (
        {"@misc": "spacy-bertft.FullTuning.v1"},
        {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 16},
    )
    assert window == Choices("components.encoder.model.window", (None, 128))


def test_a_space_written_is_read_as_the_same(read):
    space = read(FULL)
    assert read(space_text(space)) == space


def test_the_config_s_own_values_have_a_place(read, config):
    settings = settings_of(config)
    found = [setting.value(setting.place(settings[setting.name])) for setting in read(FULL)]
    # The block that the config leaves out is filled in, and equal to that choice.
    assert found == [5e-5, 4, 0.1, {"@misc": "spacy-bertft.FullTuning.v1"}, None]


def test_values_outside_have_none(read):
    (epochs,) = read("[training.max_epochs]\nlow = 2\nhigh = 8\nstep = 2")
    (window,) = read("[components.encoder.model.window]\nchoices = [64, 128]")
    assert (epochs.place(5), epochs.place(9), epochs.place(None), window.place(None)) == (None, None, None, None)


def test_numbers_have_few_digits_and_stay_inside():
    rate = Range("a", 1e-5, 3e-4, whole=False, log=True)
    assert rate.value(0.000123456789) == 0.0001235
    assert Range("a", 0.0, 0.123456, whole=False).value(0.1234559) == 0.123456
    assert Range("a", 2, 8, whole=True).value(3.0) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[training.eval_freq]\nchoices = [1]", "did you mean training.eval_frequency?"),
        ("[training.learn_rate]\nchoices = [1]", "did you mean training.optimizer.learn_rate?"),
        ("[qqq]\nchoices = [1]", "[qqq]: found no such setting in the config"),
        ("[training.dropout]\nchoices = []", "found choices = []; expected a list of values"),
        ("[training.dropout]\nchoices = 3", "found choices = 3; expected a list of values"),
        ("[training.dropout]\nchoices = [0.1, 0.1]", "found 0.1 twice"),
        ("[training.dropout]\nchoices = [0.1]\nlow = 0", "expected low and high (and log or step), or else choices"),
        ("[training.dropout]\nlow = 0", "found low; expected low and high"),
        ("[training.dropout]\n", "found nothing; expected low and high"),
        ("[training.dropout]\nlow = 0\nhigh = 1\nsteps = 3", "found low, high, steps; expected"),
        ("[training.dropout]\nlow = 0.5\nhigh = 0.2", "found low = 0.5, which is above high = 0.2"),
        ("[training.dropout]\nlow = 0\nhigh = 1\nlog = true", "found log = true with low = 0; expected low above 0"),
        ("[training.dropout]\nlow = -1\nhigh = 1\nlog = true", "found log = true with low = -1"),
        ("[training.dropout]\nlow = 0\nhigh = 1\nlog = 1", "found log = 1; expected true or false"),
        ("[training.dropout]\nlow = 0\nhigh = 1\nstep = 0", "found step = 0; expected a step above 0"),
        ("[training.dropout]\nlow = 0\nhigh = 1\nstep = 0.3", "expected whole steps from low to high"),
        ("[training.dropout]\nlow = 0.1\nhigh = 1\nlog = true\nstep = 0.1", "without log"),
        ('[training.dropout]\nlow = "0"\nhigh = 1', 'found low = "0"; expected a number'),
        ("[training.dropout]\nlow = NaN\nhigh = 1", "found low = NaN; expected a number"),
        ("[training.max_epochs]\nlow = 1\nhigh = 2.5", "expected integers, as the config has 4"),
        ("[components.encoder.model.name]\nlow = 1\nhigh = 2", "the setting is 'bert-base-cased' in the config"),
        (f"[{TUNING}]\nlow = 1\nhigh = 2", "the setting is a block"),
        ("[training.dropout]\nchoices = [True]", "write true, false and null in lower case"),
        ("[components.encoder.model.name]\nchoices = [bert]", "quote texts"),
        (f'[{TUNING}]\nchoices = [{{"@misc": "spacy-bertft.LoraTunin.v1"}}]', "which is not registered"),
        (f'[{TUNING}]\nchoices = [{{"@misc": "spacy-bertft.LoraTuning.v1", "rnk": 1}}]', "rnk"),
        (f"[{TUNING}]\nchoices = [{LORA}]\n[{TUNING}.layer_decay]\nchoices = [1.0]", "settings outside each other"),
        ("[training.dropout]\nchoices = [1]\n[training.dropout]\nchoices = [2]", "already exists"),
        ("training.dropout = 3", "a space file that can't be read"),
        ("", "found no settings"),
    ],
)
def test_mistakes_are_named(read, text, said):
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert said in str(caught.value)
    assert "space.cfg" in str(caught.value)


def test_a_missing_file_is_named(config, tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_space(tmp_path / "none.cfg", settings_of(config))


def test_a_config_with_other_values_is_complete_and_leaves_the_first_alone(config):
    before = config.to_str()
    values = {"training.dropout": 0.25, TUNING: {"@misc": "spacy-bertft.LoraTuning.v1", "rank": 16}}
    changed = with_values(config, values)
    assert config.to_str() == before
    assert settings_of(changed)["training.dropout"] == 0.25
    # The whole block is replaced, and filled in.
    assert "layer_decay" not in changed["components"]["encoder"]["tuning"]
    assert changed["components"]["encoder"]["tuning"]["rank"] == 16
    assert changed["components"]["encoder"]["tuning"]["save"] == "merged"
    assert changed["corpora"]["train"]["path"] == "${paths.train}"  # variables stay variables
    spacy.util.load_model_from_config(changed, auto_fill=False, validate=True)


def test_differences_are_named(config):
    other = with_values(config, {"training.dropout": 0.25, TUNING: {"@misc": "spacy-bertft.FrozenTuning.v1"}})
    said = differences(config, other)
    assert "training.dropout (0.1 and 0.25)" in said
    assert "@misc ('spacy-bertft.FullTuning.v1' and 'spacy-bertft.FrozenTuning.v1')" in said
    assert differences(config, config.copy()) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[nlp]\nlang = ", "a config that spaCy refuses"),
        (
            '[nlp]\nlang = "en"\npipeline = ["ner"]\n[components]\n[components.ner]\nfactory = "bertft_nerr"',
            "bertft_nerr",
        ),
        (None, "found no such file"),
    ],
)
def test_configs_that_can_t_be_used_are_named(tmp_path, text, said):
    path = tmp_path / "config.cfg"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        filled_config(path, {})
    assert said in str(caught.value)


def test_an_override_of_a_section_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match="trainin"):
        filled_config(NER, {"trainin.dropout": 0.2})


def test_sourced_components_stay_sourced(tmp_path):
    """Loading a config replaces `source` by the settings of what it loads, whose weights would be lost."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.to_disk(tmp_path / "pipeline")
    head = '[nlp]\nlang = "en"\npipeline = ["sentencizer"]\n[components]\n[components.sentencizer]\n'
    (tmp_path / "config.cfg").write_text(f'{head}source = "{tmp_path}/pipeline"\n', encoding="utf-8")
    filled = filled_config(tmp_path / "config.cfg", {})
    assert filled["components"]["sentencizer"] == {"source": f"{tmp_path}/pipeline"}
