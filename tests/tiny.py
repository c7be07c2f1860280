"""Tiny, randomly initialised encoders with tokenizers of their own kind, saved as Hugging Face folders."""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FAMILIES = (
    "bert-uncased",
    "bert-cased",
    "roberta",
    "distilbert",
    "electra",
    "albert",
    "xlm-roberta",
    "camembert",
    "modernbert",
    "deberta-v2",
    "mpnet",
)
# Families whose windows can lie side by side under transformers 5.
PACKED = tuple(family for family in FAMILIES if family not in ("deberta-v2", "mpnet"))

CORPUS = """
Anna lives in Berlin and works in the office near the old garden. Bob Stone went to work in Rome yesterday.
Nothing happened at home. I met Clara in the house; Paris and Oslo are far from my home and garden.
A long meeting about trains, planes and automobiles: unbelievable stories were told, retold and forgotten.
The quick brown fox jumps over the lazy dog. She sells sea shells by the sea shore, doesn't she? 12,345.67 €!
Die Straße führt über die Brücke nach München. Das Mädchen läuft schnell durch den grünen Wald. Fräulein Müller.
Où est la bibliothèque? L'élève a mangé une pomme près du château. Ça va très bien, merci beaucoup.
El niño comió piñas en la montaña. Mañana iremos al río. ¿Cómo estás? ¡Qué alegría!
Мама мыла раму. Москва стоит на реке. Книга лежит на столе.
שלום עולם. הילד אוכל תפוח. مرحبا بالعالم. الولد يأكل تفاحة.
東京は日本の首都です。 我 喜 欢 北 京 的 秋 天。 안녕하세요 세계.
""".strip().splitlines()

WIDTH, LAYERS, LIMIT = 32, 2, 64
_BERT_SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ROBERTA_SPECIALS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
_MPNET_SPECIALS = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "[UNK]", "mask": "<mask>"}
_ALBERT_SPECIALS = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# The class that each family's tokenizer_config.json names.
_TOKENIZER_CLASSES = {
    "bert-uncased": "BertTokenizer",
    "bert-cased": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "albert": "AlbertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "modernbert": "PreTrainedTokenizerFast",
    "deberta-v2": "DebertaV2Tokenizer",
    "mpnet": "MPNetTokenizer",
}


def make_encoder(folder: Path, family: str, *, head: str = "AutoModel", **settings: Any) -> Path:
    """Save an encoder of the family in `folder`: config.json, model.safetensors, tokenizer files.

    head: the transformers auto class whose weights are saved. settings: of config.json, beside the family's own.
    """
    import torch
    import transformers

    from spacy_bertft.compat import quiet_transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, specials = _tokenizer(family)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_tokenizer_config(folder, family, specials)
    config = _config(family, tokenizer, specials)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ModernBERT's import under transformers 4.49
        model = getattr(transformers, head).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # livelier than the usual start, so that mistakes show
            parameter.add_(torch.randn_like(parameter) * 0.05)
    with quiet_transformers():
        model.save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    return folder


def _write_tokenizer_config(folder: Path, family: str, specials: dict[str, str]) -> None:
    names: dict[str, Any] = {f"{name}_token": text for name, text in specials.items()}
    if family in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        names |= {"bos_token": specials["cls"], "eos_token": specials["sep"]}
    settings = names | {"tokenizer_class": _TOKENIZER_CLASSES[family], "model_max_length": 10**30}
    if "roberta" not in family:
        settings["do_lower_case"] = family in ("bert-uncased", "distilbert", "electra", "albert", "mpnet")
    if family == "modernbert":
        settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _tokenizer(family: str) -> tuple[Any, dict[str, str]]:
    if family in ("bert-uncased", "bert-cased", "distilbert", "electra", "mpnet"):
        specials = _MPNET_SPECIALS if family == "mpnet" else _BERT_SPECIALS
        return _wordpiece(specials, lowercase=family != "bert-cased"), specials
    if family == "roberta":
        return _byte_level(_ROBERTA_SPECIALS), _ROBERTA_SPECIALS
    if family == "modernbert":
        return _byte_level(_BERT_SPECIALS), _BERT_SPECIALS
    specials = {"albert": _ALBERT_SPECIALS, "deberta-v2": _BERT_SPECIALS}.get(family, _ROBERTA_SPECIALS)
    return _unigram(specials, family), specials


def _wordpiece(specials: dict[str, str], *, lowercase: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    starts, inner = Counter[str](), Counter[str]()
    for start, piece in _pieces(tokenizer):
        (inner if start else starts)[piece] += 1
    pieces = [*_commonest(starts, 120), *(f"##{piece}" for piece in _commonest(inner, 120))]
    vocab = {piece: number for number, piece in enumerate([*specials.values(), *pieces])}
    tokenizer.model = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer.add_special_tokens(list(specials.values()))
    tokenizer.post_processor = _template(tokenizer, specials)
    return tokenizer


def _byte_level(specials: dict[str, str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if specials is _ROBERTA_SPECIALS:
        ends = [(specials[name], tokenizer.token_to_id(specials[name])) for name in ("sep", "cls")]
        tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    else:
        tokenizer.post_processor = _template(tokenizer, specials)
    return tokenizer


def _unigram(specials: dict[str, str], family: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    tokenizer = Tokenizer(models.Unigram())
    plain = [normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "), normalizers.NFKC()]
    albert = [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(albert if family == "albert" else plain)
    metaspace = pre_tokenizers.Metaspace()
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
    tokenizer.pre_tokenizer = metaspace if family == "deberta-v2" else split
    tokenizer.decoder = decoders.Metaspace()
    counts = Counter(piece for _, piece in _pieces(tokenizer))
    total = sum(counts.values())
    scored = [(piece, math.log(counts[piece] / total)) for piece in _commonest(counts, 200)]
    names = list(specials.values())
    tokenizer.model = models.Unigram([*((name, 0.0) for name in names), *scored], names.index(specials["unk"]), False)
    tokenizer.add_special_tokens(names)
    tokenizer.post_processor = _template(tokenizer, specials)
    return tokenizer


def _pieces(tokenizer: Any) -> Iterator[tuple[int, str]]:
    """All pieces of up to 4 letters in the words of CORPUS, with their places in the words."""
    for line in CORPUS:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(line)):
            for start in range(len(word)):
                for end in range(start + 1, min(start + 4, len(word)) + 1):
                    yield start, word[start:end]


def _commonest(counts: Counter[str], most: int) -> list[str]:
    """All single letters and the commonest longer pieces; the trainers of `tokenizers` differ from run to run."""
    ordered = sorted(counts, key=lambda piece: (-counts[piece], piece))
    letters = [piece for piece in ordered if len(piece) == 1]
    return letters + [piece for piece in ordered if len(piece) > 1][:most]


def _template(tokenizer: Any, specials: dict[str, str]) -> Any:
    from tokenizers import processors

    cls, sep = specials["cls"], specials["sep"]
    return processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(text, tokenizer.token_to_id(text)) for text in (cls, sep)],
    )


def _config(family: str, tokenizer: Any, specials: dict[str, str]) -> Any:
    from transformers import AutoConfig

    common: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": LIMIT,
    }
    common |= {f"{name}_token_id": tokenizer.token_to_id(specials[name]) for name in ("pad", "cls", "sep")}
    ends = {"bos_token_id": common["cls_token_id"], "eos_token_id": common["sep_token_id"]}
    model_type = {"bert-uncased": "bert", "bert-cased": "bert"}.get(family, family)
    own: dict[str, Any] = {
        "roberta": ends | {"max_position_embeddings": LIMIT + 2, "type_vocab_size": 1},
        "xlm-roberta": ends | {"max_position_embeddings": LIMIT + 2, "type_vocab_size": 1},
        "camembert": ends | {"max_position_embeddings": LIMIT + 2, "type_vocab_size": 1},
        "electra": {"embedding_size": 16},
        "albert": ends | {"embedding_size": 16},
        "modernbert": ends | {"local_attention": 16, "global_attn_every_n_layers": 2, "reference_compile": False},
        "mpnet": ends | {"max_position_embeddings": LIMIT + 2},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    }.get(family, {})
    if family == "distilbert":
        common = {
            "vocab_size": common["vocab_size"],
            "dim": WIDTH,
            "hidden_dim": 2 * WIDTH,
            "n_layers": LAYERS,
            "n_heads": 2,
            "max_position_embeddings": LIMIT,
            "pad_token_id": common["pad_token_id"],
        }
    return AutoConfig.for_model(model_type, **(common | own))
