"""Gradients and steps against plain PyTorch; determinism; what an optimizer may ask for."""

from __future__ import annotations

import copy

import pytest
import torch
from pipelines import HEADS, examples, initialized, module_of, weights, without_dropout
from spacy.training.loop import train_while_improving
from thinc.api import Optimizer
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoTokenizer

from spacy_bertft.errors import BertftError, ConfigError, DataError
from spacy_bertft.learning.optimizer import ModuleOptimizer
from spacy_bertft.learning.step_settings import StepSettings

pytestmark = pytest.mark.touches_transformers

# The gradient of attention's key biases is nought but for rounding, which AdamW would blow up with a smaller eps.
SETTINGS = StepSettings(learn_rate=1e-3, weight_decay=0.1, betas=(0.9, 0.999), eps=1e-5, clip=0.5)


class Plain:
    """The same encoder and heads in plain PyTorch: every text alone, through transformers' own model and tokenizer."""

    def __init__(self, nlp, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = AutoModel.from_pretrained(folder)
        self.encoder.load_state_dict(module_of(nlp, "encoder").model.state_dict())
        self.encoder.eval()  # the weights of both start the same, and dropout is off
        self.heads = {name: copy.deepcopy(module_of(nlp, name)) for name in HEADS}
        self.labels = {name: nlp.get_pipe(name).labels for name in HEADS}
        self.tokens_per_doc = nlp.get_pipe("ner").cfg["targets_per_doc"]

    def loss(self, eg, head):
        words = [token.text for token in eg.predicted]
        encoding = self.tokenizer(words, is_split_into_words=True, return_tensors="pt")
        hidden = self.encoder(**encoding).last_hidden_state[0]
        module = self.heads[head]
        if head == "textcat":
            logits = module.output(torch.tanh(module.dense(hidden[0])))
            gold = self.labels[head].index(max(eg.reference.cats, key=eg.reference.cats.get))
            return cross_entropy(logits, torch.tensor(gold))
        word_ids = encoding.word_ids()
        logits = module.output(hidden[[word_ids.index(word) for word in range(len(words))]])
        tags = [self._tag(token) for token in eg.reference]
        return cross_entropy(logits, torch.tensor(tags), reduction="sum") / self.tokens_per_doc

    def _tag(self, token):
        if not token.ent_type_:
            return 0
        return 1 + 2 * self.labels["ner"].index(token.ent_type_) + (token.ent_iob_ == "I")

    def backward(self, egs, heads=HEADS):
        for eg in egs:
            for head in heads:
                self.loss(eg, head).backward()

    def gradients(self):
        return {key: p.grad for key, p in self.encoder.named_parameters() if p.grad is not None}

    def steppers(self):
        return [_AdamW(module) for module in (self.encoder, *self.heads.values())]


class _AdamW:
    def __init__(self, module):
        self.parameters = list(module.parameters())
        decays = [p for p in self.parameters if p.ndim >= 2]
        others = [p for p in self.parameters if p.ndim < 2]
        self.optimizer = torch.optim.AdamW([{"params": decays}, {"params": others, "weight_decay": 0.0}])

    def step(self, settings, n_examples):
        for p in self.parameters:
            if p.grad is not None:
                p.grad /= n_examples
        nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.param_groups[0]["weight_decay"] = settings.weight_decay
        for group in self.optimizer.param_groups:
            group |= {"lr": settings.learn_rate, "betas": settings.betas, "eps": settings.eps}
        self.optimizer.step()
        self.optimizer.zero_grad()


def _ready(folder):
    nlp = without_dropout(initialized(folder))
    return nlp, Plain(nlp, folder)


def _gradients(nlp):
    nlp.get_pipe("encoder").settle()
    named = module_of(nlp, "encoder").model.named_parameters()
    return {key: p.grad for key, p in named if p.grad is not None}


def _assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-4, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}"
        )


def _optimizer(**changes):
    settings = {"L2": SETTINGS.weight_decay, "grad_clip": SETTINGS.clip, "use_averages": False}
    betas = dict(zip(("beta1", "beta2"), SETTINGS.betas, strict=True))
    return Optimizer(SETTINGS.learn_rate, eps=SETTINGS.eps, **{**settings, **betas, **changes})


# --- gradients at the encoder


@pytest.mark.parametrize("heads", [("ner", "textcat"), ("ner",), ("textcat",)])
def test_gradient_at_the_encoder_is_the_sum_of_the_heads(tiny_bert, heads):
    nlp, plain = _ready(tiny_bert)
    egs = examples(nlp)
    nlp.update(egs, sgd=False, exclude=[name for name in HEADS if name not in heads])
    plain.backward(egs, heads)
    _assert_close(_gradients(nlp), plain.gradients())


def test_gradient_of_parts_is_that_of_the_whole(tiny_bert):
    nlp, plain = _ready(tiny_bert)
    egs = examples(nlp)
    for part in (egs[:1], egs[1:4], egs[4:]):
        nlp.update(part, sgd=False)
    plain.backward(egs)
    _assert_close(_gradients(nlp), plain.gradients())


def test_a_text_without_gold_adds_nothing_to_the_gradient(tiny_bert):
    nlp, plain = _ready(tiny_bert)
    egs = examples(nlp)
    bare = type(egs[0])(nlp.make_doc("Somebody in London"), nlp.make_doc("Somebody in London"))
    nlp.update([*egs, bare], sgd=False)
    plain.backward(egs)
    _assert_close(_gradients(nlp), plain.gradients())


# --- whole steps


def test_module_optimizer_steps_like_torch_adamw():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    twin = copy.deepcopy(module)
    ours, plain = ModuleOptimizer(module), _AdamW(twin)
    for rate in (1e-2, 5e-3, 0.0, 1e-3):
        batch = torch.randn(5, 4)
        settings = StepSettings(rate, 0.1, (0.8, 0.99), 1e-7, 0.3)
        module(batch).square().sum().backward()
        twin(batch).square().sum().backward()
        ours.count(5)
        ours.step(settings)
        plain.step(settings, 5)
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_update_with_an_optimizer_equals_plain_pytorch(tiny_bert):
    nlp, plain = _ready(tiny_bert)
    steppers = plain.steppers()
    optimizer = _optimizer()
    for _ in range(3):
        egs = examples(nlp)
        nlp.update(egs, sgd=optimizer)
        plain.backward(egs)
        for stepper in steppers:
            stepper.step(SETTINGS, len(egs))
    _assert_close(weights(nlp, "encoder"), {f"model.{k}": v for k, v in plain.encoder.state_dict().items()}, 2e-5)
    for name, module in plain.heads.items():
        _assert_close(weights(nlp, name), module.state_dict(), 2e-5)


def _run_loop(nlp, *, parts, steps=3, annotating=(), exclude=()):
    """Train as `spacy train` does, on batches of all examples."""
    batches = ((0, examples(nlp)) for _ in range(steps))
    loop = train_while_improving(
        nlp,
        _optimizer(),
        batches,
        lambda: (0.0, {}),
        dropout=0.0,
        eval_frequency=1000,
        accumulate_gradient=parts,
        patience=0,
        max_steps=0,
        exclude=list(exclude),
        annotating_components=list(annotating),
        before_update=None,
    )
    for _ in loop:
        pass
    return nlp


@pytest.mark.parametrize("parts", [2, 3, 4, 100])
def test_accumulating_gives_the_same_step_as_the_whole_batch(tiny_bert, parts):
    whole = _run_loop(without_dropout(initialized(tiny_bert)), parts=1)
    in_parts = _run_loop(without_dropout(initialized(tiny_bert)), parts=parts)
    for name in ("encoder", *HEADS):
        _assert_close(weights(in_parts, name), weights(whole, name), 2e-5)


def test_spacy_train_and_a_loop_by_hand_take_the_same_steps(tiny_bert):
    trained = _run_loop(without_dropout(initialized(tiny_bert)), parts=1)
    by_hand = without_dropout(initialized(tiny_bert))
    optimizer = _optimizer()
    for _ in range(3):
        by_hand.update(examples(by_hand), sgd=optimizer)
    for name in ("encoder", *HEADS):
        _assert_close(weights(by_hand, name), weights(trained, name), 1e-6)


@pytest.mark.parametrize("by_hand", [True, False])
def test_an_encoder_that_annotates_learns_all_the_same(tiny_bert, by_hand):
    plain = _run_loop(without_dropout(initialized(tiny_bert)), parts=1)
    nlp = without_dropout(initialized(tiny_bert))
    if by_hand:
        optimizer = _optimizer()
        for _ in range(3):
            nlp.update(examples(nlp), sgd=optimizer, annotates=["encoder"])
    else:
        _run_loop(nlp, parts=1, annotating=["encoder"])
    _assert_close(weights(nlp, "encoder"), weights(plain, "encoder"), 1e-6)


@pytest.mark.parametrize("annotating", [(), ("encoder",)])
def test_a_frozen_encoder_stays_and_its_heads_learn(tiny_bert, annotating):
    nlp = initialized(tiny_bert)
    encoder, head = weights(nlp, "encoder"), weights(nlp, "ner")
    _run_loop(nlp, parts=1, exclude=["encoder"], annotating=annotating)
    assert all(torch.equal(value, encoder[key]) for key, value in weights(nlp, "encoder").items())
    assert not torch.equal(weights(nlp, "ner")["output.weight"], head["output.weight"])


def test_a_frozen_head_stays_and_the_others_learn(tiny_bert):
    nlp = initialized(tiny_bert)
    before = {name: weights(nlp, name) for name in ("encoder", *HEADS)}
    _run_loop(nlp, parts=1, exclude=["textcat"])
    assert all(torch.equal(value, before["textcat"][key]) for key, value in weights(nlp, "textcat").items())
    assert not torch.equal(weights(nlp, "ner")["output.weight"], before["ner"]["output.weight"])
    key = "model.embeddings.LayerNorm.weight"
    assert not torch.equal(weights(nlp, "encoder")[key], before["encoder"][key])


def test_a_step_that_is_owed_is_taken_before_the_weights_are_seen(tiny_bert):
    nlp, seen = initialized(tiny_bert), initialized(tiny_bert)
    key = "model.embeddings.LayerNorm.weight"
    start = weights(nlp, "encoder")[key]
    for pipeline in (nlp, seen):
        without_dropout(pipeline).update(examples(pipeline), sgd=_optimizer())
    settled = weights(nlp, "encoder")[key]
    assert not torch.equal(settled, start)
    seen("Prediction settles too")
    assert torch.equal(module_of(seen, "encoder").state_dict()[key], settled)


def test_the_rate_factor_of_a_head_scales_its_step(tiny_bert):
    torch.manual_seed(0)
    slow, fast = nn.Linear(3, 2), nn.Linear(3, 2)
    fast.load_state_dict(slow.state_dict())
    start = slow.weight.detach().clone()
    for module, factor in ((slow, 1.0), (fast, 4.0)):
        module(torch.ones(1, 3)).sum().backward()
        optimizer = ModuleOptimizer(module, rate_factor=factor)
        optimizer.count(1)
        optimizer.step(StepSettings(1e-3, 0.0, (0.9, 0.999), 1e-8, 0.0))
    torch.testing.assert_close(fast.weight - start, 4 * (slow.weight - start), rtol=1e-4, atol=1e-7)


# --- losses, refusals


def test_the_encoder_reports_the_sum_of_the_heads_losses(tiny_bert):
    nlp = initialized(tiny_bert)
    losses = nlp.update(examples(nlp), sgd=False)
    assert losses["encoder"] == pytest.approx(losses["ner"] + losses["textcat"])
    assert losses["textcat"] == pytest.approx(0.693, abs=0.1)


def test_gold_that_is_missing_everywhere_gives_no_loss(tiny_bert):
    nlp = initialized(tiny_bert)
    egs = [type(eg)(nlp.make_doc(eg.text), nlp.make_doc(eg.text)) for eg in examples(nlp)]
    assert nlp.update(egs, sgd=_optimizer()) == {"encoder": 0.0, "ner": 0.0, "textcat": 0.0}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_radam": True}, "RAdam"),
        ({"L2_is_weight_decay": False}, "L2_is_weight_decay"),
        ({"beta1": 0.0, "beta2": 0.0}, "Adam.v1"),
    ],
)
def test_an_optimizer_that_cant_be_honoured_is_refused(tiny_bert, changes, word):
    nlp = initialized(tiny_bert)
    with pytest.raises(ConfigError, match=word):
        nlp.update(examples(nlp), sgd=_optimizer(**changes))


def test_a_foreign_optimizer_is_refused(tiny_bert):
    nlp = initialized(tiny_bert)
    with pytest.raises(ConfigError, match=r"expected a thinc\.api\.Optimizer"):
        nlp.get_pipe("ner").finish_update(torch.optim.SGD(module_of(nlp, "ner").parameters()))


def test_training_that_diverges_stops_with_advice(tiny_bert):
    nlp = initialized(tiny_bert)
    with torch.no_grad():
        module_of(nlp, "ner").output.bias.fill_(float("nan"))
    with pytest.raises(DataError, match="Lower the learning rate"):
        nlp.update(examples(nlp), sgd=_optimizer())


def test_labels_that_are_new_at_update_are_named(tiny_bert):
    nlp = initialized(tiny_bert)
    (eg,) = examples(nlp, [("Mars is red", [(0, 4, "PLANET")], "home")])
    with pytest.raises(BertftError, match=r"'PLANET'.*CITY, PERSON.*add_label"):
        nlp.update([eg], sgd=False)
    eg.reference.ents = []
    eg.reference.cats = {"garden": 1.0}
    with pytest.raises(BertftError, match=r"'garden'.*home, work.*add_label"):
        nlp.update([eg], sgd=False)
