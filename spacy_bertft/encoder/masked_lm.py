"""A masked language model on our encoder: forward pass without padding, logits for the chosen subwords only."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from spacy_bertft import compat
from spacy_bertft.encoder.checkpoint import CONFIG, Checkpoint, saved_files
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.folders import find_folder
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.engines.choose import uses_half
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.types import Ints, Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows to train on, packed and corrupted."""

    packed: Packed  # with the corrupted ids
    rows: Ints  # (M,)
    targets: Ints  # (M,)
    is_next: Ints | None  # (W,) 1 if the second segment follows the first; None: one segment


@dataclass(frozen=True, slots=True)
class Losses:
    """Losses of a batch, summed."""

    masked: Tensor  # () cross-entropy summed over the chosen subwords
    next_sentence: Tensor  # () … over the windows; 0 without next sentences
    right: int  # chosen subwords that were predicted correctly


class _Given(nn.Module):
    """Replaces the encoder inside a model with heads: returns the hidden states set as `output`."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self._base = [base]  # in a list, so that it is not a submodule
        self.output: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_base"][0], name)  # some heads look up the embeddings there


class MaskedModel(nn.Module):
    """An encoder with the heads it was pretrained with.

    A transformers model with a head computes logits for all subwords, but only those for the chosen ones, about a
    seventh, are needed. So the encoder runs by itself, and the head's own code gets only the chosen rows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        files: dict[str, bytes],
        settings: EncoderSettings,
        *,
        missing: Sequence[str] = (),
    ) -> None:
        """model: …ForMaskedLM, or BertForPreTraining. files: of its tokenizer, and config.json.

        missing: names of weights that the checkpoint lacked, which start at random.
        """
        super().__init__()
        self.model = model
        self.missing = tuple(missing)
        prefix = model.base_model_prefix
        self.encoder = Encoder(Checkpoint(files), settings, model=getattr(model, prefix))
        if not len(self.encoder.specials.prefix):
            raise EncoderError(
                "The encoder's tokenizer puts no special subword before a text. Expected one like [CLS]. Choose "
                "another encoder."
            )
        nn.Module.to(model, self.encoder.device)
        self._given = _Given(self.encoder.model)
        heads = copy.copy(model)
        heads._modules = {**model._modules, prefix: self._given}
        self._heads = [heads]  # in a list: its modules are registered already, as `model`'s

    def forward(self, batch: Batch) -> Losses:
        """The losses of one batch."""
        return self.losses(batch, self.encoder.engine()(batch.packed))

    def losses(self, batch: Batch, hidden: Tensor) -> Losses:
        """The losses of one batch, whose hidden rows are known. (N, D)."""
        rows, targets = (torch.from_numpy(array).to(hidden.device) for array in (batch.rows, batch.targets))
        if batch.is_next is None:
            logits, of_next = self._run_heads(hidden[rows]), None
        else:
            first = torch.from_numpy((batch.packed.positions == 0).nonzero()[0]).to(hidden.device)
            logits, of_next = self._run_heads(hidden[rows], hidden[first])
        masked = cross_entropy(logits, targets, reduction="sum")
        following = masked.new_zeros(())
        if of_next is not None and batch.is_next is not None:
            # transformers' class 0 is "is next".
            answer = torch.from_numpy(1 - batch.is_next).to(hidden.device)
            following = cross_entropy(of_next, answer, reduction="sum")
        right = int((logits.argmax(dim=1) == targets).sum()) if not self.training else 0
        return Losses(masked, following, right)

    def logits(self, rows: Tensor) -> Tensor:
        """Logits over the vocabulary for hidden rows. (M, D) -> (M, V)."""
        logits: Tensor = self._run_heads(rows)
        return logits

    def _run_heads(self, rows: Tensor, first: Tensor | None = None) -> Any:
        """Logits (M, V) of hidden rows; if the windows' first rows are given, also next-sentence logits (W, 2)."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        half = uses_half(self.encoder.settings.precision, rows.device, fused=False)
        ids = torch.zeros(1, len(rows), dtype=torch.int64, device=rows.device)  # never read
        with torch.autocast(rows.device.type, dtype=torch.bfloat16, enabled=half):
            pooler: Any = None if first is None else self.encoder.model.pooler
            pooled = None if first is None else pooler(first[:, None])
            self._given.output = BaseModelOutputWithPooling(last_hidden_state=rows[None], pooler_output=pooled)
            found = self._heads[0](input_ids=ids)
            self._given.output = None
        if first is None:
            return (found.logits if "logits" in found else found.prediction_logits)[0].float()
        return found.prediction_logits[0].float(), found.seq_relationship_logits.float()

    def save(self, folder: Path) -> None:
        """Write a Hugging Face folder: config.json, model.safetensors with the heads, tokenizer files."""
        folder.mkdir(parents=True, exist_ok=True)
        # Restore the config's dropout: the one set for pretraining should not apply later.
        for name, value in json.loads(self.encoder.checkpoint.files[CONFIG]).items():
            if "dropout" in name:
                setattr(self.model.config, name, value)
        for name, content in self.encoder.checkpoint.files.items():
            if name != CONFIG:
                (folder / name).write_bytes(content)
        with compat.quiet_transformers():
            self.model.save_pretrained(folder)
        # transformers 4 also saves what it noted on loading, such as the folder.
        saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = {key: value for key, value in saved.items() if not key.startswith("_")}
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def mask_id(encoder: Encoder) -> int:
    """The id of the mask subword."""
    files = encoder.checkpoint.files
    named = json.loads(files.get("tokenizer_config.json", b"{}")).get("mask_token", "[MASK]")
    text = named["content"] if isinstance(named, dict) else named
    found = encoder.tokenizer.token_to_id(text) if text else None
    if found is None:
        raise EncoderError(
            f"The encoder's tokenizer has no mask subword (looked for {text!r}). Expected the tokenizer of a masked "
            "language model, with mask_token in its tokenizer_config.json. Choose another encoder."
        )
    return int(found)


def load_masked(
    name: str,
    settings: EncoderSettings,
    *,
    revision: str = "main",
    next_sentence: bool = False,
    dropout: float | None = None,
) -> MaskedModel:
    """Load an encoder with its masked-LM head, from a folder, a package or the hub; missing heads start at random.

    dropout: during training; None: the config's. `MaskedModel.save` always writes the config's.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForPreTraining, AutoTokenizer

    folder = find_folder(name)
    source = name if folder is None else str(folder)
    where = {"revision": revision} if folder is None else {"local_files_only": True}
    try:
        with compat.quiet_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
            files = saved_files(tokenizer, config)
            set_dropout(config, dropout)
            kind: Any = AutoModelForPreTraining if next_sentence else AutoModelForMaskedLM
            model, report = kind.from_pretrained(
                source,
                config=config,
                trust_remote_code=False,
                output_loading_info=True,
                **compat.dtype_argument(torch.float32),
                **where,
            )
    except Exception as error:  # transformers raises of all kinds
        raise EncoderError(
            f"The encoder {name!r} could not be loaded with a masked-LM head: {str(error).strip().splitlines()[0]} "
            "Expected a hub name, a folder, or package/folder of an encoder of the BERT family. Correct the name."
        ) from error
    missing = sorted(report["missing_keys"])
    return MaskedModel(_check_next_sentence(model, next_sentence), files, settings, missing=missing)


def _check_next_sentence(model: Any, next_sentence: bool) -> Any:
    """Return the model. Raises a ConfigError if it lacks a head for its objective."""
    if next_sentence and type(model).__name__ != "BertForPreTraining":
        raise ConfigError(
            f"next_sentence is on, but {type(model).__name__} has no head for it. Expected a BERT. Set next_sentence = "
            "false, or take a BERT."
        )
    return model


def set_dropout(config: Any, dropout: float | None) -> None:
    """Set every dropout in a transformers config; None leaves them as they are."""
    for name, value in config.to_dict().items():
        if dropout is not None and "dropout" in name and isinstance(value, int | float):
            setattr(config, name, dropout)
