"""The Hugging Face encoder: load, tokenise, packed or padded forward, save as a Hugging Face folder."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from spacy_bertft import compat
from spacy_bertft.align import align
from spacy_bertft.attention import packed_attention, runs_of
from spacy_bertft.batching import bucket, pack
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.types import Alignment, Features, Ints, Packed, Subwords, Windows
from spacy_bertft.windows import cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16"]
Batching = Literal["auto", "packed", "padded"]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Subwords in one forward: on a CPU few enough for its caches, on a GPU enough to fill it.
CPU_BUDGET, GPU_BUDGET = 1024, 16384
# The window where neither tokenizer nor model knows a limit.
DEFAULT_WINDOW = 512


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """How an encoder runs. None: the best default for the model and the device."""

    device: Device = "auto"
    precision: Precision = "float32"
    window: int | None = None  # subwords, special ones included
    overlap: int | None = None  # subwords that neighbouring windows share, at least
    batch_subwords: int | None = None  # subwords in one forward, at most
    batching: Batching = "auto"


@dataclass(frozen=True, slots=True)
class Texts:
    """B texts and the character offsets of their T tokens."""

    texts: Sequence[str]
    token_starts: Ints  # (T,) in its own text
    token_ends: Ints  # (T,)
    token_counts: Ints  # (B,)


class Encoder(nn.Module):
    """A transformers encoder with its tokenizer: Texts -> Features."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        settings: EncoderSettings,
        *,
        trained_pooler: bool = True,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.trained_pooler = trained_pooler
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        self.prefix, self.suffix = _special_subwords(backend)
        self.first_position = _first_position(model)
        self.window = _window(settings, _limit(model, tokenizer, self.first_position), self.n_special)
        self.overlap = (self.window - self.n_special) // 8 if settings.overlap is None else settings.overlap
        # A window and an overlap that don't fit each other are an error here, before there is a text to cut.
        cut(np.zeros(1, dtype=np.int64), size=self.window - self.n_special, overlap=self.overlap)
        if settings.batch_subwords is not None and settings.batch_subwords < 1:
            raise ConfigError(
                f"The encoder's batch_subwords is {settings.batch_subwords}; expected at least 1. Leave it out for the "
                "best number on this device."
            )
        self.packed = _resolve_batching(model, settings.batching)
        if self.packed:
            compat.use_attention(model, "bertft_packed", packed_attention)
        self.to(resolve_device(settings.device))

    @property
    def n_special(self) -> int:
        """How many special subwords stand around a window."""
        return len(self.prefix) + len(self.suffix)

    @property
    def width(self) -> int:
        """D."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def budget(self) -> int:
        """Subwords in one forward, at most."""
        default = CPU_BUDGET if self.device.type == "cpu" else GPU_BUDGET
        return self.settings.batch_subwords or default

    def pooler(self) -> nn.Linear | None:
        """The pretrained layer over the first special subword, where the checkpoint has one (BERT, ALBERT)."""
        pooler = getattr(self.model, "pooler", None)
        dense = getattr(pooler, "dense", pooler)
        fits = isinstance(dense, nn.Linear) and dense.weight.shape == (self.width, self.width)
        return dense if fits and self.trained_pooler else None

    def tokenize(self, texts: Sequence[str]) -> Subwords:
        """Split raw texts into subwords with character offsets; nothing is cut off."""
        # One text a call: calls for many run in threads of their own, which a forked worker would wait for in vain.
        encode = self.tokenizer.backend_tokenizer.encode
        encodings = [encode(text, add_special_tokens=False) for text in texts]
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        offsets = [np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2) for encoding in encodings]
        bounds = np.concatenate([np.zeros((0, 2), dtype=np.int64), *offsets])
        return Subwords(
            ids=np.concatenate([np.zeros(0, dtype=np.int64), *ids]),
            starts=bounds[:, 0],
            ends=bounds[:, 1],
            counts=np.array([len(of_text) for of_text in ids], dtype=np.int64),
        )

    def forward(self, texts: Texts) -> Features:
        """Encode whole texts of any length, in as many forwards as the budget asks for."""
        subwords = self.tokenize(texts.texts)
        windows = cut(subwords.counts, size=self.window - self.n_special, overlap=self.overlap)
        hidden, first_rows = self._encode(subwords.ids, windows)
        alignment = _align_texts(subwords, texts)
        kept = windows.keep_ends - windows.keep_starts  # (W,)
        rows = np.repeat(first_rows + len(self.prefix) - windows.starts, kept) + np.arange(len(subwords.ids))
        return Features(
            hidden=hidden,
            rows=rows,
            subword_counts=subwords.counts,
            token_subwords=alignment.subwords,
            token_subword_counts=alignment.counts,
            token_counts=texts.token_counts,
            cls_rows=first_rows if len(self.prefix) else first_rows[:0],
            window_counts=windows.counts if len(self.prefix) else np.zeros_like(windows.counts),
        )

    def _encode(self, ids: Ints, windows: Windows) -> tuple[Tensor, Ints]:
        """Hidden rows (N, D) of all windows, and the first row (W,) of each window."""
        lengths = windows.ends - windows.starts + self.n_special  # (W,)
        groups = bucket(lengths, budget=self.budget, padded=not self.packed)
        run = self.packed_forward if self.packed else self.padded_forward
        parts = [run(pack(ids, windows, group, prefix=self.prefix, suffix=self.suffix)) for group in groups]
        order = np.concatenate([np.zeros(0, dtype=np.int64), *groups])
        first_rows = np.empty_like(order)
        first_rows[order] = np.cumsum(lengths[order]) - lengths[order]
        hidden = torch.cat(parts) if parts else torch.zeros(0, self.width, device=self.device)
        return hidden, first_rows

    def packed_forward(self, packed: Packed) -> Tensor:
        """One forward without padding: attention stays within each window. -> (N, D)."""
        with self._autocast():
            output = self.model(
                input_ids=self._tensor(packed.ids)[None],  # (1, N)
                position_ids=self._tensor(self._positions(packed))[None],  # (1, N)
                window_runs=runs_of(packed.lengths),
            )
        return output.last_hidden_state[0].float()  # type: ignore[no-any-return]

    def _positions(self, packed: Packed) -> Ints:
        """Positions (N,) as the family counts them: RoBERTa's from behind the padding's, skipping padding in a text."""
        if not self.first_position:
            return packed.positions
        padding = self.first_position - 1
        counted = (packed.ids != padding).astype(np.int64)
        so_far = np.cumsum(counted)
        before = (so_far - counted)[packed.positions == 0]  # (W,) counted in the windows before
        positions: Ints = padding + counted * (so_far - np.repeat(before, packed.lengths))
        return positions

    def padded_forward(self, packed: Packed) -> Tensor:
        """One forward with each window a row, padded to the longest; for families that know no other. -> (N, D)."""
        mask = np.arange(packed.lengths.max(initial=1)) < packed.lengths[:, None]  # (W, longest)
        ids = np.full(mask.shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        ids[mask] = packed.ids
        real = self._tensor(mask)
        with self._autocast():
            output = self.model(input_ids=self._tensor(ids), attention_mask=real.long())
        return output.last_hidden_state[real].float()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Write a plain Hugging Face folder: config.json, model.safetensors, tokenizer files."""
        weights = self.model.state_dict()
        if not self.trained_pooler:  # or it would pass for trained when it is loaded again
            weights = {key: tensor for key, tensor in weights.items() if "pooler" not in key}
        with compat.quiet_transformers():
            self.model.save_pretrained(folder, state_dict=weights, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)

    def _tensor(self, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _autocast(self) -> torch.autocast:
        half = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)


def load(name: str, settings: EncoderSettings, *, revision: str = "main") -> Encoder:
    """Load an encoder from a local folder, a folder of an installed package, or the Hugging Face hub."""
    folder = find_folder(name)
    if folder is not None:
        return load_folder(folder, settings)
    try:
        checkpoint = _read(name, revision=revision)
    except EncoderError:
        raise
    except Exception as error:  # transformers raises of all kinds
        raise EncoderError(
            f"The encoder {name!r} is not a folder here ({Path(name).absolute()}), not a folder of an installed "
            f"package, and could not be loaded from the Hugging Face hub: {_first_line(error)} Expected a hub name "
            'such as "bert-base-cased" (needs a network or a filled cache), or the path of a folder with config.json, '
            "weights and tokenizer files."
        ) from error
    return checkpoint.encoder(settings)


def find_folder(name: str) -> Path | None:
    """The folder that `name` means: a local one, or package/path inside an installed package."""
    if name and Path(name).is_dir():
        return Path(name)
    package, _, inside = name.partition("/")
    if not inside or not package.isidentifier() or package == "__main__":
        return None
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return next((Path(place, inside) for place in places or () if Path(place, inside).is_dir()), None)


def load_folder(folder: Path, settings: EncoderSettings) -> Encoder:
    """Load an encoder from a Hugging Face folder, without looking anywhere else."""
    found = sorted(path.name for path in folder.iterdir())
    if "config.json" not in found:
        raise EncoderError(
            f"The folder {folder} holds no config.json (found: {_listed(found)}). Expected a Hugging Face model "
            "folder: config.json, model.safetensors and tokenizer files. Give its path as the encoder's name."
        )
    if not set(WEIGHT_FILES) & set(found):
        raise EncoderError(
            f"The encoder folder {folder} holds no weights (found: {_listed(found)}). Expected one of "
            f"{', '.join(WEIGHT_FILES)}. Save the model there with save_pretrained, or copy its weights."
        )
    try:
        checkpoint = _read(str(folder), local_files_only=True)
    except EncoderError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors raise of all kinds
        raise EncoderError(
            f"The encoder folder {folder} could not be loaded: {_first_line(error)} (found: {_listed(found)}). "
            "Expected a Hugging Face model folder with config.json, whole weights and the files of a fast tokenizer. "
            "Check that the copy is complete."
        ) from error
    return checkpoint.encoder(settings)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What transformers read, and the parameters that the files did not hold."""

    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    missing: list[str]

    def encoder(self, settings: EncoderSettings) -> Encoder:
        """The encoder; a warning if weights other than the pooler's were missing."""
        absent = [key for key in self.missing if "pooler" not in key]
        if absent:
            warnings.warn(
                f"The weights of {self.source!r} lack {len(absent)} parameters of {type(self.model).__name__}, which "
                f"start at random: {_listed(absent)}. Expected a checkpoint of this family; check the encoder's name.",
                stacklevel=2,
            )
        trained_pooler = len(absent) == len(self.missing)
        return Encoder(self.model, self.tokenizer, settings, trained_pooler=trained_pooler)


def _read(source: str, **where: Any) -> _Checkpoint:
    from transformers import AutoModel, AutoTokenizer

    with compat.quiet_transformers():
        tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
        _check_tokenizer(source, tokenizer)
        model, report = AutoModel.from_pretrained(
            source,
            trust_remote_code=False,
            output_loading_info=True,
            **compat.dtype_argument(torch.float32),
            **where,
        )
    return _Checkpoint(source, model, tokenizer, sorted(report["missing_keys"]))


def _check_tokenizer(source: str, tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise EncoderError(
            f"The tokenizer of {source!r} is a {type(tokenizer).__name__}, which has no fast version. Expected a "
            "fast tokenizer (tokenizer.json), because only those give character offsets. Choose an encoder that "
            "has one, or convert the tokenizer with the tokenizers library."
        )
    # Without tokenizer files transformers 5 makes up a tokenizer to which every word is unknown.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise EncoderError(
            f"The encoder {source!r} has no vocabulary: its tokenizer knows only "
            f"{_listed(sorted(tokenizer.get_vocab()))}. Expected the files of a fast tokenizer (tokenizer.json) beside "
            "the weights. Save the tokenizer there with save_pretrained, or copy its files."
        )


def resolve_device(device: Device) -> torch.device:
    """The device that "auto" means now: spaCy's chosen GPU, else CUDA, else MPS, else the CPU."""
    if device == "auto":
        chosen = compat.spacy_gpu()
        if chosen is None and torch.cuda.is_available():
            chosen = "cuda"
        elif chosen is None and torch.backends.mps.is_available():
            chosen = "mps"
        return torch.device(chosen or "cpu")
    if (device == "cuda" and not torch.cuda.is_available()) or (
        device == "mps" and not torch.backends.mps.is_available()
    ):
        raise ConfigError(
            f'The encoder\'s device is "{device}", but PyTorch {torch.__version__} finds none here. Set device = '
            '"auto" or "cpu", or install a PyTorch build and driver for it.'
        )
    return torch.device(device)


def _align_texts(subwords: Subwords, texts: Texts) -> Alignment:
    """Align all texts at once: their characters are laid end to end, one apart."""
    sizes = np.array([len(text) + 1 for text in texts.texts], dtype=np.int64)
    base = np.cumsum(sizes) - sizes  # (B,)
    of_subword = np.repeat(base, subwords.counts)  # (S,)
    of_token = np.repeat(base, texts.token_counts)  # (T,)
    return align(
        subwords.starts + of_subword,
        subwords.ends + of_subword,
        texts.token_starts + of_token,
        texts.token_ends + of_token,
    )


def _special_subwords(backend: Any) -> tuple[Ints, Ints]:
    """The special subwords before and behind a text."""
    encoding = backend.encode("a")
    body = [place for place, special in enumerate(encoding.special_tokens_mask) if not special]
    if not body:
        raise EncoderError(
            "The encoder's tokenizer gives no subword for the text \"a\". Expected a tokenizer of the encoder's "
            "language and script whose vocabulary covers it, or knows an unknown subword."
        )
    ids = np.array(encoding.ids, dtype=np.int64)
    return ids[: body[0]], ids[body[-1] + 1 :]


def _first_position(model: PreTrainedModel) -> int:
    """The position of a window's first subword: behind the padding's in the RoBERTa family, else 0."""
    padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def _limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, first_position: int) -> int | None:
    """The longest window that tokenizer and model allow; None if neither says."""
    positions = getattr(model.config, "max_position_embeddings", None)
    limits = [tokenizer.model_max_length, positions - first_position if positions and positions > 0 else None]
    # Checkpoints without a limit say 1e30.
    known = [int(limit) for limit in limits if limit is not None and 0 < limit < 10**6]
    return min(known, default=None)


def _window(settings: EncoderSettings, limit: int | None, n_special: int) -> int:
    window = settings.window if settings.window is not None else limit or DEFAULT_WINDOW
    if not n_special < window <= (limit or window):
        raise ConfigError(
            f"The encoder's window is {window} subwords. Expected more than its {n_special} special subwords and at "
            f"most {limit}, the limit of this encoder. Set window to such a number, or leave it out."
        )
    return window


def _resolve_batching(model: PreTrainedModel, batching: Batching) -> bool:
    packable = compat.can_pack(model)
    if batching == "packed" and not packable:
        raise ConfigError(
            f'The encoder\'s batching is "packed", but {type(model).__name__} under transformers '
            f'{compat.transformers_version()} can only be padded. Set batching = "auto", or use transformers 5 and one '
            f"of {', '.join(sorted(compat.PACKED_FAMILIES))}."
        )
    return packable and batching != "padded"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "nothing"
