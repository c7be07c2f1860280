"""Features of the texts of a run, computed once, for an encoder that is not trained."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Literal

import numpy as np
from spacy.tokens import Doc

from spacy_bertft.components.doc_texts import digest_of
from spacy_bertft.encoder.features import gather, split
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.learning.tuning import FrozenTuning, Tuning
from spacy_bertft.locks import Lock
from spacy_bertft.types import Features

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MIB = 2**20
_logger = logging.getLogger("spacy")  # whose messages `spacy train` shows


class FeatureCache:
    """Keeps the features of Docs by their content, since spaCy copies the Docs of a run for every update.

    Nothing is evicted: a run reads its texts in turns, so that those evicted would be the next ones needed.
    """

    def __init__(self, limit_mb: int, place: Literal["memory", "disk"] = "memory") -> None:
        """limit_mb: MiB of hidden states; texts beyond it are encoded again. disk: in a temporary file."""
        self._left = limit_mb * _MIB
        self._device: torch.device | str = "cpu"  # of the features that are asked for
        self._limit_mb = limit_mb
        self._file: IO[bytes] | None = tempfile.TemporaryFile() if place == "disk" else None  # noqa: SIM115
        self._access = Lock()  # to the file's position and the space left: threads may predict once a run has ended
        self._state: tuple[int, TextEncoder, object] | None = None  # set at the first use
        self._kept: dict[bytes, Features | tuple[Features, int, tuple[int, int]]] = {}

    @classmethod
    def of(cls, tuning: Tuning) -> FeatureCache | None:
        """The cache that a tuning asks for; one of another kind belongs to an encoder in frozen_components."""
        settings = tuning if isinstance(tuning, FrozenTuning) else FrozenTuning()
        return cls(settings.cache_mb, settings.cache) if settings.cache_mb else None

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def fits(self, encoder: TextEncoder) -> bool:
        """Whether it may serve an encoder: in the process that made it, and while the weights stay as they were."""
        from spacy_bertft.engines.choose import version_of

        state = (os.getpid(), encoder, version_of(encoder.loaded))
        self._state = self._state or state
        return self._state == state

    def features(self, docs: Sequence[Doc], encode: Callable[[Sequence[Doc]], Features]) -> Features:
        """The features of Docs. encode: computes those of Docs that are not in the cache."""
        if not docs:
            return encode(docs)
        keys = list(map(digest_of, docs))
        missing = {key: doc for key, doc in zip(keys, docs, strict=True) if key not in self._kept}
        if len(missing) == len(docs):  # as one batch, as without a cache
            encoded = encode(docs)
            self._device = encoded.hidden.device
            for key, one in zip(keys, split(encoded), strict=True):
                self._keep(key, one)
            return encoded
        now: dict[bytes, Features] = {}
        if missing:
            parts = split(encode(list(missing.values())))
            now = {key: replace(one, hidden=one.hidden.cpu()) for key, one in zip(missing, parts, strict=True)}
        for key, one in now.items():
            self._keep(key, one)
        found = gather([(now.get(key) or self._find(key), 0) for key in keys])
        return replace(found, hidden=found.hidden.to(self._device))

    def _keep(self, key: bytes, features: Features) -> None:
        with self._access:
            self._add(key, features)

    def _add(self, key: bytes, features: Features) -> None:
        size = features.hidden.nbytes
        if key in self._kept or not self._left:
            return
        if size > self._left:
            self._left = 0
            _logger.info(
                "The cache of the frozen encoder is full (%s MiB, %s texts): later texts are encoded in every epoch. "
                "Set a larger cache_mb in its tuning block if there is memory.",
                self._limit_mb,
                len(self._kept),
            )
            return
        self._left -= size
        if self._file is None:
            self._kept[key] = replace(features, hidden=features.hidden.cpu())
            return
        place = self._file.seek(0, 2)
        self._file.write(features.hidden.cpu().numpy().tobytes())
        shape = (features.hidden.shape[0], features.hidden.shape[1])
        self._kept[key] = replace(features, hidden=features.hidden.new_empty(0, shape[1])), place, shape

    def _find(self, key: bytes) -> Features:
        found = self._kept[key]
        if isinstance(found, Features):
            return found
        features, place, shape = found
        return replace(features, hidden=self._read(place, shape))

    def _read(self, place: int, shape: tuple[int, int]) -> Tensor:
        import torch

        assert self._file is not None
        with self._access:
            self._file.flush()
            self._file.seek(place)
            content = self._file.read(4 * shape[0] * shape[1])
        return torch.from_numpy(np.frombuffer(content, dtype=np.float32).reshape(shape).copy())
