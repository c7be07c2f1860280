"""The encoder with its weights: trained by torch, and run by the engine that fits the moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spacy_bertft import compat
from spacy_bertft.encoder.adapters import restore, updates_of, whole_weights
from spacy_bertft.encoder.checkpoint import Checkpoint
from spacy_bertft.encoder.settings import EncoderSettings, resolve_device, resolve_packed
from spacy_bertft.encoder.text_encoder import TextEncoder
from spacy_bertft.engines.attention import packed_attention
from spacy_bertft.engines.base import Engine, LayeredEngine
from spacy_bertft.engines.choose import Engines
from spacy_bertft.engines.dropout import use_dropout
from spacy_bertft.engines.family_weights import read_shape
from spacy_bertft.engines.low_rank import SharedWeights, Updates
from spacy_bertft.engines.recompute import KEPT_SUBWORDS, RecomputingEngine
from spacy_bertft.locks import Lock
from spacy_bertft.text.subwords import Splitter, Texts
from spacy_bertft.types import Features, Ints, Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Encoder(TextEncoder, nn.Module):
    """An encoder of a Hugging Face checkpoint. engines/choose.py chooses the engine that runs it."""

    def __init__(
        self, checkpoint: Checkpoint, settings: EncoderSettings, *, model: PreTrainedModel | None = None
    ) -> None:
        """model: transformers' model, if already loaded; its weights replace the checkpoint's."""
        nn.Module.__init__(self)
        self.checkpoint = checkpoint
        self.settings = settings
        self.shape = read_shape(checkpoint.config)
        self.packed = resolve_packed(checkpoint.config.get("model_type", ""), settings.batching)
        self.splitter = Splitter(checkpoint.tokenizer())
        if model is not None:
            self._take(model)
        self.first_position = self.shape.first_position if self.shape else compat.first_position(self.loaded)
        self._set_windows(checkpoint.limit(self.first_position))
        self._building = Lock()  # of the model and of engines: threads that share a pipeline may all start at once
        self._engines = Engines(precision=settings.precision, padded=settings.batching == "padded")
        device = resolve_device(settings.device)
        if device.type != "cpu" or self.loaded is not None:
            self.to(device)

    # --- what it is made of

    @property
    def width(self) -> int:
        """Width of the hidden states, D."""
        return self.shape.width if self.shape else int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device("cpu") if self.loaded is None else self.loaded.device

    @property
    def budget(self) -> int:
        """Maximum number of subwords in the next forward pass."""
        return self.settings.batch_subwords or self.engine().budget

    @property
    def trainable(self) -> bool:
        """Yes."""
        return True

    def weights(self) -> Mapping[str, Tensor]:
        """The current weights, named as AutoModel names them."""
        return self.at_rest().weights

    @property
    def loaded(self) -> PreTrainedModel | None:
        """transformers' model, or None if it has not been built yet."""
        return self._modules.get("model")  # type: ignore[return-value]

    @property
    def model(self) -> PreTrainedModel:
        """transformers' model, built on first use."""
        with self._building:
            return self.loaded or self._take(self.checkpoint.model().train(self.training))

    def _take(self, model: PreTrainedModel) -> PreTrainedModel:
        use_dropout(model)
        if self.packed:
            compat.use_attention(model, "bertft_packed", packed_attention)
        if self.settings.gradient_checkpointing:
            compat.checkpoint_activations(model)
        self._modules["model"] = model
        if self.checkpoint.adapter is None:
            self.checkpoint = replace(self.checkpoint, weights={})  # the model's weights are the current ones now
        else:
            model.requires_grad_(False)
            restore(model, self.checkpoint.adapter.updates)
        return model

    def pooler(self) -> nn.Linear | None:
        """The pretrained layer over the first special subword, if the checkpoint has one (BERT, ALBERT)."""
        if not self.checkpoint.trained_pooler:
            return None
        pooler = getattr(self.model, "pooler", None)
        dense = getattr(pooler, "dense", pooler)
        fits = isinstance(dense, nn.Linear) and dense.weight.shape == (self.width, self.width)
        return dense if fits else None

    def at_rest(self) -> Checkpoint:
        """Its current files and whole weights."""
        with self._building:  # which moves the weights from the checkpoint to the model
            if self.loaded is None:
                return self.checkpoint.whole()
            files = {**self.checkpoint.files, "config.json": self.loaded.config.to_json_string().encode()}
            return replace(self.checkpoint, files=files, weights=whole_weights(self.loaded), adapter=None)

    def to_save(self) -> Checkpoint:
        """What a pipeline saves: its current files, and weights or an adapter."""
        adapter = self.checkpoint.adapter
        return replace(self.checkpoint, adapter=adapter.with_updates(self.updates)) if adapter else self.at_rest()

    @property
    def shared(self) -> SharedWeights | None:
        """The weights that it shares with the encoders of other adapters; None if all are its own."""
        return None if self.checkpoint.adapter is None else self.checkpoint.adapter.shared

    @property
    def updates(self) -> Updates:
        """The current low-rank updates of the shared weights."""
        adapter = self.checkpoint.adapter
        return ({} if adapter is None else adapter.updates) if self.loaded is None else updates_of(self.loaded)

    # PyTorch needs the model to move, convert, list or export a module's weights.

    def _apply(self, *args: Any, **kwargs: Any) -> Encoder:
        self.model  # noqa: B018
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return, no-untyped-call]

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters."""
        self.model  # noqa: B018
        return super().named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The model's weights."""
        self.model  # noqa: B018
        return super().state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Copies build new engines: weights in oneDNN's layout can't be copied.
        return {**self.__dict__, "_engines": self._engines.fresh()}

    # --- forward

    def predict(self, texts: Texts) -> Features:
        """Encode whole texts of any length, without dropout and without gradients."""
        # Each thread walks through all modules: the flag of this one says nothing about those inside while another
        # thread is on its way through them.
        self.eval()
        with torch.no_grad():
            return self._features(texts)

    def forward(self, texts: Texts) -> Features:
        """Encode whole texts of any length, with gradients if torch computes them now."""
        return self._features(texts)

    def _hidden(self, ids: Ints, windows: Windows) -> tuple[Tensor, Ints]:
        run: Engine = self.engine()
        budget = self.settings.batch_subwords or run.budget
        batches, first_rows = self._batches(ids, windows, budget=budget, padded=run.padded)
        n_rows = sum(len(batch.ids) for batch in batches)
        if torch.is_grad_enabled():
            if n_rows > KEPT_SUBWORDS:
                run = RecomputingEngine(run, self.model)
            parts = [run(batch) for batch in batches]
            return torch.cat([torch.empty(0, self.width, device=self.device), *parts]), first_rows
        # Without gradients the parts are not kept: they would double the memory for a long text.
        hidden = torch.empty(n_rows, self.width, device=self.device)
        done = 0
        for batch in batches:
            part = run(batch)
            hidden[done : done + len(part)] = part
            done += len(part)
        return hidden, first_rows

    def engine(self) -> LayeredEngine:
        """The engine for the next forward pass."""
        with self._building:
            return self._engines.choose(self, learning=self.training or torch.is_grad_enabled())
