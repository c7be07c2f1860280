"""Make one pipeline or encoder, in the environment it belongs to.

python prepare.py KIND JOB

KIND is one of KINDS below; JOB is a JSON object with `output` and what that kind reads. Run by run.py.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peer import peer_models
from texts import read_records, read_sentences

BATCH = 16  # texts in an update, of each kind
RATE = 3e-4
OVERLAP = 64  # subwords that neighbouring windows share in the Hugging Face pipeline
LIMIT = 512
TOKENIZER_FILES = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
BASE = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}

Job = dict[str, Any]


def make_encoder(job: Job) -> None:
    """A BERT of base size with random weights and the tokenizer of `encoder`."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(job["encoder"])
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **BASE)
    BertModel(config).save_pretrained(job["output"])
    copy_tokenizer(Path(job["encoder"]), Path(job["output"]))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer as they are, for every version of transformers to read, with the usual limit."""
    for path in (source / name for name in TOKENIZER_FILES):
        if path.is_file():
            shutil.copy(path, target)
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["model_max_length"] = LIMIT
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def make_ours(job: Job) -> None:
    """This package: one encoder with an entity head, and a category head where asked for."""
    import spacy

    nlp = spacy.blank("en")
    model = {"@architectures": "spacy-bertft.Encoder.v1", "name": job["encoder"]}
    nlp.add_pipe("bertft_encoder", name="encoder", config={"model": model})
    nlp.add_pipe("bertft_ner", name="ner")
    if job["categories"]:
        nlp.add_pipe("bertft_textcat", name="textcat")
    train(nlp, job)


def make_peer(job: Job) -> None:
    """spacy-transformers: one transformer with spaCy's own entity recogniser and text categoriser."""
    import spacy

    models = peer_models(job["encoder"])
    nlp = spacy.blank("en")
    nlp.add_pipe("transformer", config={"model": models["transformer"]})
    nlp.add_pipe("ner", config={"model": models["ner"]})
    if job["categories"]:
        nlp.add_pipe("textcat", config={"model": models["textcat"]})
    train(nlp, job)


def train(nlp: Any, job: Job) -> None:
    """A few updates, so that the heads find what such heads find; then save."""
    chance = random.Random(0)
    pools = [list(entity_examples(nlp, Path(job["data"])))]
    if job["categories"]:
        pools.append(list(category_examples(nlp, Path(job["data"]))))
    every = [example for pool in pools for example in pool]
    chance.shuffle(every)
    optimizer = nlp.initialize(lambda: every)
    optimizer.learn_rate = RATE
    for _ in range(job["updates"]):
        nlp.update([example for pool in pools for example in chance.sample(pool, BATCH)], sgd=optimizer)
    nlp.to_disk(job["output"])


def entity_examples(nlp: Any, data: Path) -> Iterator[Any]:
    """The training sentences of WikiGold."""
    from spacy.tokens import Doc
    from spacy.training import Example
    from spacy.training.iob_utils import biluo_tags_to_spans, iob_to_biluo

    for sentence in read_sentences(data / "ner/wikigold/train.iob"):
        gold = Doc(nlp.vocab, words=sentence.tokens)
        gold.ents = biluo_tags_to_spans(gold, iob_to_biluo(sentence.tags))
        yield Example(nlp.make_doc(gold.text), gold)


def category_examples(nlp: Any, data: Path) -> Iterator[Any]:
    """The training messages of SMS spam."""
    from spacy.training import Example

    for record in read_records(data / "textcat/sms_spam/train.jsonl"):
        cats = {label: float(label == record["label"]) for label in ("ham", "spam")}
        yield Example.from_dict(nlp.make_doc(record["text"]), {"cats": cats})


def make_classifier(job: Job) -> None:
    """A Hugging Face token classifier with the very weights of our pipeline `source`, so that both find the same."""
    import safetensors.torch
    from transformers import AutoModelForTokenClassification

    from spacy_bertft.tasks.entity_spans import Tagging

    source = Path(job["source"])
    labels = json.loads((source / "ner/cfg").read_text(encoding="utf-8"))["labels"]
    tags = Tagging.of(labels, "bio").tags
    model = AutoModelForTokenClassification.from_pretrained(
        source / "encoder/encoder", id2label=dict(enumerate(tags)), label2id={tag: n for n, tag in enumerate(tags)}
    )
    weights = safetensors.torch.load_file(source / "ner/model.safetensors")
    model.classifier.load_state_dict({name: weights[f"output.{name}"] for name in ("weight", "bias")})
    model.save_pretrained(job["output"])
    copy_tokenizer(Path(job["encoder"]), Path(job["output"]))


def make_component(job: Job) -> None:
    """A spaCy pipeline with the component of spacy-huggingface-pipelines."""
    import spacy

    nlp = spacy.blank("en")
    config = {
        "model": job["source"],
        "aggregation_strategy": "simple",
        "stride": OVERLAP,
        "alignment_mode": "expand",
    }
    nlp.add_pipe("hf_token_pipe", config=config)
    nlp.to_disk(job["output"])


KINDS = {
    "encoder": make_encoder,
    "ours": make_ours,
    "peer": make_peer,
    "classifier": make_classifier,
    "component": make_component,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]](json.loads(sys.argv[2]))
