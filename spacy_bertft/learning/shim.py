"""The thinc Shim that owns a torch module and its optimizer, and the thinc Model around it."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from thinc.api import Model, Optimizer, Shim

from spacy_bertft import compat
from spacy_bertft.learning.step_settings import DEFAULTS, StepSettings, read_settings
from spacy_bertft.learning.tally import Tally
from spacy_bertft.learning.tuning import FullTuning, Tuning
from spacy_bertft.locks import Lock

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spacy_bertft.learning.optimizer import ModuleOptimizer
    from spacy_bertft.learning.state import TensorsByName

_AVERAGES = "averages"  # with a shim's id, its key in the averages of thinc's optimizer
_logger = logging.getLogger("spacy")  # whose messages `spacy train` shows


class TorchShim(Shim):
    """Runs a torch module inside a thinc Model and updates it with the settings of the training loop's optimizer.

    The module is set later (`module = …`): a pipeline is built from its config before its weights are known. Or it is
    built when it is first asked for (`build_later`), so that who never trains it needs no torch.
    """

    def __init__(
        self,
        *,
        rate_factor: float = 1.0,
        backward_from: Callable[[Any], Tensor] = lambda output: output,
        name: str = "",
    ) -> None:
        """backward_from: selects the module's output to backpropagate from; name: of the component, for messages."""
        super().__init__(None)
        self.name = name
        self.of_docs: Callable[[list[Any]], Any] | None = None  # the module's inputs from a list of Docs
        self.settle: Callable[[], None] = lambda: None  # takes a step that is due, before the weights are averaged
        self.before_change: Callable[[], None] = lambda: None  # called while the weights are still as they were
        self.rate_factor = rate_factor
        self.examples_per_epoch: int | None = None  # for tunings that count epochs
        self.tuning: Tuning = FullTuning()
        self.backward_from = backward_from
        self.optimizer: ModuleOptimizer | None = None
        self.tally = Tally()  # for the loggers of a run
        self._reported: int | None = None
        self._builder: Callable[[], nn.Module] | None = None
        self._changing = Lock()  # of threads that share a pipeline, one builds or moves the module
        self._settings = DEFAULTS  # of the last step
        self._moved: Any = None  # the module that was moved as a whole

    @property
    def module(self) -> Any:
        """The torch module, or an encoder that needs no torch; None before it is initialised or loaded."""
        with self._changing:
            if self._builder is not None:
                self.module = self._builder()
        return self._model

    @module.setter
    def module(self, module: Any) -> None:
        self._model, self._builder = module, None
        self.optimizer = None if module is None else self._new_optimizer(module)

    def build_later(self, builder: Callable[[], nn.Module]) -> None:
        """Build the module when it is first asked for."""
        self.module = None
        self._builder = builder

    @property
    def waits(self) -> bool:
        """Whether the module is yet to be built."""
        return self._builder is not None

    def _new_optimizer(self, module: nn.Module) -> ModuleOptimizer | None:
        """An optimizer for the module; None for an exported encoder, which is no torch module."""
        if not getattr(module, "trainable", True):
            return None
        from spacy_bertft.learning.optimizer import ModuleOptimizer

        if self.optimizer is not None:
            self.optimizer.release()
            self.optimizer.averages.forget_trained()
        return ModuleOptimizer(
            module,
            tuning=self.tuning,
            rate_factor=self.rate_factor,
            examples_per_epoch=self.examples_per_epoch,
            name=self.name,
        )

    def __call__(self, inputs: Any, is_train: bool) -> tuple[Any, Callable[[Tensor], None]]:
        """Run the module. In training, the second value is a callback that backpropagates the output's gradient."""
        return self.begin_update(inputs) if is_train else (self.predict(inputs), lambda gradient: None)

    def predict(self, inputs: Any) -> Any:
        """Run the module without dropout and without gradients."""
        import torch

        module = self.module
        assert module is not None
        module.eval()
        with torch.no_grad():
            return module(inputs)

    def begin_update(self, inputs: Any) -> tuple[Any, Callable[[Tensor], None]]:
        """Run the module for training, or as in prediction if none of its weights is trained."""
        import torch

        module = self.module
        assert module is not None
        if not self.tuning.learns:
            self.report(0)
            return self.predict(inputs), lambda gradient: None
        self.before_change()
        if self.optimizer is not None:
            self.optimizer.averages.restore()
            if self.optimizer.begin():
                self.report(sum(p.numel() for p in module.parameters() if p.requires_grad))
        module.train()
        with torch.enable_grad():
            output = module(inputs)
        tensor = self.backward_from(output)
        if not tensor.requires_grad:
            return output, lambda gradient: None
        return output, lambda gradient: self._backpropagate(tensor, gradient)

    def _backpropagate(self, tensor: Tensor, gradient: Tensor) -> None:
        import torch

        # A prediction in between has switched dropout off; activations that are recomputed now need it.
        self._model.train()
        with compat.without_cudnn_attention(tensor.device):
            torch.autograd.backward(tensor, gradient)
        if self.optimizer is not None:
            self.optimizer.collect()

    def report(self, n_trained: int) -> None:
        """Tell `spacy train` how much of the module is trained, if that has changed."""
        if n_trained != self._reported:
            self._reported = n_trained
            _logger.info("%s: %s of %s parameters are trained", self.name, f"{n_trained:,}", f"{self.n_parameters():,}")

    def n_parameters(self) -> int:
        """The number of all weights."""
        return 0 if self.module is None else sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def n_steps(self) -> int:
        """The number of steps that the module has taken; 0 again after a change of its layers."""
        return 0 if self.optimizer is None else self.optimizer.steps

    def set_rate_factor(self, factor: float) -> None:
        """Set the module's learning rate, as a multiple of the optimizer's."""
        self.rate_factor = factor
        if self.optimizer is not None:
            self.optimizer.rate_factor = factor

    def count(self, n_examples: int, *, subwords: int = 0, loss: float = 0.0) -> None:
        """Count examples whose gradients are, or will be, summed into the next step. loss: summed over them."""
        if self.optimizer is not None:
            self.optimizer.count(n_examples)
        self.tally.texts += n_examples
        self.tally.subwords += subwords
        self.tally.loss += loss

    def finish_update(self, optimizer: Optimizer) -> None:
        """Take a step with the current settings of thinc's optimizer."""
        self.step(self.settings_of(optimizer))

    def step(self, settings: StepSettings) -> None:
        """Take a step, unless there is no module yet."""
        norm = None if self.optimizer is None else self.optimizer.step(settings)
        if norm is not None:
            self.tally.stepped(norm, settings.learn_rate)

    def settings_of(self, optimizer: Any) -> StepSettings:
        """Read the settings of a step. If the optimizer keeps averages, `use_params` finds this shim's in them.

        Language.rehearse passes a function in the optimizer's place, which has its learning rate and betas only: the
        other settings are those of the step before.
        """
        if not isinstance(optimizer, Optimizer) and hasattr(optimizer, "b2"):
            betas = (float(optimizer.b1), float(optimizer.b2))
            return replace(self._settings, learn_rate=float(optimizer.learn_rate), betas=betas)
        settings = self._settings = read_settings(optimizer)
        averages: Any = optimizer.averages  # spaCy evaluates and saves with them as soon as there are any
        if averages is not None and self.optimizer is not None and self.tuning.learns:
            averages[self.id, _AVERAGES] = self.optimizer.averages
        return settings

    @contextmanager
    def use_params(self, params: Mapping[Any, Any]) -> Iterator[None]:
        """Inside, the module has the averages of its weights, if they are in `params`: those of thinc's optimizer."""
        if self.optimizer is None or (self.id, _AVERAGES) not in params:
            yield
            return
        self.settle()
        with self.optimizer.averages.swapped_in():
            yield

    @property
    def averaged(self) -> bool:
        """Whether the module's weights are averages now."""
        return self.optimizer is not None and self.optimizer.averages.in_place

    def copy(self) -> TorchShim:
        """A copy with separate weights and a new optimizer."""
        twin = TorchShim(rate_factor=self.rate_factor, backward_from=self.backward_from, name=self.name)
        twin.tuning, twin.examples_per_epoch = self.tuning, self.examples_per_epoch
        twin.module = self.copied_module()
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchShim:
        # nlp.resume_training deep-copies models. What the shim calls belongs to the component, and is not copied.
        return self.copy()

    def copied_module(self) -> nn.Module | None:
        """A copy of the module, all of whose parameters get gradients."""
        if self.optimizer is not None:
            self.optimizer.release()
        return copy.deepcopy(self.module)  # type: ignore[no-any-return]

    def training_state(self) -> TensorsByName:
        """Weights, moments, and gradients that wait for a step; empty if there is no module yet."""
        from spacy_bertft.learning.state import module_state

        return {} if self.module is None or self.optimizer is None else module_state(self.module, self.optimizer)

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of `training_state` into the same module."""
        from spacy_bertft.learning.state import load_module_state

        if self.module is not None:
            self.before_change()
            self.optimizer = self._new_optimizer(self.module)
            if self.optimizer is not None:
                load_module_state(state, self.module, self.optimizer)

    def move(self, device: Any) -> None:
        """Move the weights to a torch.device. Threads that come meanwhile wait until all of them are there."""
        module: nn.Module = self.module
        if self._moved is not module or next(module.parameters()).device != device:
            with self._changing:
                if next(module.parameters()).device != device:
                    self.module = module.to(device)
                self._moved = module

    def to_device(self, device_type: str, device_id: int) -> None:
        """Move the weights; thinc calls a CUDA device "gpu"."""
        if self.module is not None and self.optimizer is not None:
            self.module.to(f"cuda:{device_id}" if device_type == "gpu" else device_type)
            self.module = self._model  # with a new optimizer

    def to_bytes(self) -> bytes:
        """The weights as safetensors."""
        import safetensors.torch

        state = {} if self.module is None else self.module.state_dict()
        return safetensors.torch.save({key: tensor.contiguous() for key, tensor in state.items()})

    def from_bytes(self, data: bytes) -> TorchShim:
        """Load weights into the module."""
        import safetensors.torch

        if self.module is not None:
            self.module.load_state_dict(safetensors.torch.load(data))
            self.module = self._model
        return self


def wrap(
    name: str, shim: TorchShim, attrs: dict[str, Any] | None = None, layers: Sequence[Model[Any, Any]] = ()
) -> Model[Any, Any]:
    """A thinc Model around a TorchShim. layers: other Models that belong to it but that it does not run."""
    return Model(name, _forward, shims=[shim], attrs=attrs or {}, layers=layers)


def shim_of(model: Model[Any, Any]) -> TorchShim:
    """The TorchShim inside a Model made by `wrap`."""
    (shim,) = model.shims
    assert isinstance(shim, TorchShim)
    return shim


def _forward(model: Model[Any, Any], inputs: Any, is_train: bool) -> tuple[Any, Callable[[Tensor], None]]:
    shim = shim_of(model)
    if isinstance(inputs, list) and shim.of_docs is not None:  # `spacy debug model` gives every model Docs
        inputs = shim.of_docs(inputs)
    return shim(inputs, is_train)
