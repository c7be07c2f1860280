"""Load encoders from a saved pipeline, a Hugging Face folder, an installed package or the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import WEIGHTS, Checkpoint, read_checkpoint, saved_files
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.folders import check_files, find_folder, first_line, require_files, told
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.weights_check import check_finite, check_sizes, check_weights, listed, may_be_left
from spacy_bertft.engines.family_weights import read_net, read_shape
from spacy_bertft.errors import BertftError, EncoderError
from spacy_bertft.text.subwords import Splitter


def load(name: str, settings: EncoderSettings, *, revision: str = "main") -> Encoder:
    """Load an encoder from a local folder, a folder of an installed package, or the Hugging Face hub."""
    folder = find_folder(name)
    if folder is not None:
        return load_folder(folder, settings)
    with _on_hub(name):
        return _by_transformers(name, settings, revision=revision)


def load_splitter(name: str) -> Splitter:
    """Load the fast tokenizer of an encoder, which `name` means as in `load`, and nothing else of it."""
    folder = find_folder(name)
    with loading(name, folder):
        tokenizer = load_tokenizer(name) if folder is None else load_tokenizer(str(folder), local_files_only=True)
        return Splitter(Checkpoint(saved_files(tokenizer)).tokenizer())


def loading(name: str, folder: Path | None) -> AbstractContextManager[None]:
    """Turn the various errors of loading from the hub, or from the folder that `name` means, into an EncoderError."""
    return _on_hub(name) if folder is None else told(folder)


@contextmanager
def _on_hub(name: str) -> Iterator[None]:
    """Turn the various errors of loading a name that is no folder into an EncoderError."""
    try:
        yield
    except BertftError:
        raise
    except Exception as error:  # transformers raises many types of errors
        raise EncoderError(
            f"The encoder {name!r} is not a folder here ({Path(name).absolute()}), not a folder of an installed "
            f"package, and could not be loaded from the Hugging Face hub: {first_line(error)} Expected a hub name "
            'such as "bert-base-cased" (needs a network or a filled cache), or the path of a folder with config.json, '
            "weights and tokenizer files."
        ) from error


def load_saved(folder: Path, settings: EncoderSettings) -> Encoder:
    """Load an encoder from the folder of a saved pipeline. Raises an EncoderError unless its weights are complete.

    The families in engines/family_names.py are loaded without transformers, because importing it takes longer
    than everything else; transformers' model is built when training needs it.
    """
    with told(folder):
        config = check_files(folder)
        if (folder / WEIGHTS).is_file():
            checkpoint = read_checkpoint(folder)
            if checkpoint is not None:
                check_sizes(str(folder), config, checkpoint.weights)
            if checkpoint is not None and is_known(checkpoint):
                check_finite(str(folder), checkpoint.weights)
                return Encoder(checkpoint, settings)
        return load_folder(folder, settings, saved=True)


class _Noted(dict[str, Tensor]):
    """Weights that record which of them were read."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__(weights)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def is_known(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is of a known family, with all of its weights and no others."""
    shape = read_shape(checkpoint.config)
    weights = _Noted(checkpoint.weights)
    if shape is None or read_net(shape, weights) is None:
        return False
    return not [name for name in weights if name not in weights.asked and not may_be_left(name)]


def load_folder(folder: Path, settings: EncoderSettings, *, saved: bool = False) -> Encoder:
    """Load an encoder from a Hugging Face folder, without looking anywhere else.

    saved: the folder belongs to a saved pipeline, so missing weights are an error.
    """
    require_files(folder)
    with told(folder):
        return _by_transformers(str(folder), settings, saved=saved, local_files_only=True)


def _by_transformers(source: str, settings: EncoderSettings, *, saved: bool = False, **where: Any) -> Encoder:
    from transformers import AutoModel

    tokenizer = load_tokenizer(source, **where)
    with compat.quiet_transformers():
        model, report = AutoModel.from_pretrained(
            source,
            trust_remote_code=False,
            output_loading_info=True,
            **compat.dtype_argument(torch.float32),
            **where,
        )
        files = saved_files(tokenizer, model.config)
    check_finite(source, model.state_dict())
    missing = sorted(report["missing_keys"])
    absent = [name for name in missing if not may_be_left(name)]
    unknown = sorted(name for name in report["unexpected_keys"] if not may_be_left(name))
    check_weights(source, model, absent, unknown, saved=saved)
    return Encoder(Checkpoint(files, trained_pooler=len(absent) == len(missing)), settings, model=model)


def load_tokenizer(source: str, **where: Any) -> Any:
    """Load a fast tokenizer. where: arguments of from_pretrained; call it inside `loading`."""
    from transformers import AutoTokenizer

    with compat.quiet_transformers():
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
        _check_tokenizer(source, tokenizer)
    return tokenizer


def _check_tokenizer(source: str, tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise EncoderError(
            f"The tokenizer of {source!r} is a {type(tokenizer).__name__}, which has no fast version. Expected a "
            "fast tokenizer (tokenizer.json), because only those give character offsets. Choose an encoder that "
            "has one, or convert the tokenizer with the tokenizers library."
        )
    # Without tokenizer files, transformers 5 creates a tokenizer to which every word is unknown.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EncoderError(
            f"The encoder {source!r} has no vocabulary: its tokenizer knows only "
            f"{listed(sorted(tokenizer.get_vocab()))}. Expected the files of a fast tokenizer (tokenizer.json) beside "
            "the weights. Save the tokenizer there with save_pretrained, or copy its files."
        )
