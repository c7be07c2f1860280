"""Streams of Docs through a component, with errors of single Docs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from spacy.pipeline.pipe import Pipe
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc

from spacy_bertft import compat
from spacy_bertft.components import feature_store

# Docs after which free memory is returned to the system: batches of varying sizes fragment the heap, which would grow
# by the size of the encoder's arrays again and again in many thousand texts.
_TRIM_EVERY = 4096


class Trimmer:
    """Returns free memory to the system now and then."""

    def __init__(self) -> None:
        self._since = 0

    def __call__(self, n_docs: int) -> None:
        """Count Docs. Threads may lose some of each other's counts, which does no harm."""
        self._since += n_docs
        if self._since >= _TRIM_EVERY:
            self._since = 0
            compat.give_back_memory()


def annotated(pipe: Any, docs: Sequence[Doc], annotate: Callable[[Sequence[Doc]], None] | None = None) -> Iterator[Doc]:
    """Annotate a batch of Docs. The component's error handler gets those that raise an error, one at a time.

    TrainablePipe.pipe would hand over the whole batch, which is lost then. Here a batch that fails is halved until the
    Docs that make it fail are alone. So `annotate` must not change a Doc that it has annotated already.

    pipe: the component. annotate: None: its `predict` and `set_annotations`.
    """
    try:
        if annotate is None:
            pipe.set_annotations(docs, pipe.predict(docs))
        else:
            annotate(docs)
    except Exception as error:
        if len(docs) == 1:
            feature_store.drop(docs)  # no head will read them, and the handler may keep the Doc
            pipe.get_error_handler()(pipe.name, pipe, list(docs), error)
            return
    else:
        yield from docs
        return
    middle = len(docs) // 2
    yield from annotated(pipe, docs[:middle], annotate)
    yield from annotated(pipe, docs[middle:], annotate)


class DocwisePipe(TrainablePipe):  # type: ignore[misc]
    """A trainable component whose error handler gets only Docs that raise an error themselves."""

    def __call__(self, doc: Doc) -> Doc | None:
        """Annotate one Doc. None if the error handler does not raise its error."""
        return next(annotated(self, [doc]), None)


def reduced(pipe: Pipe, rebuild: Callable[..., Pipe], *arguments: Any) -> tuple[Any, ...]:
    """The result of a component's __reduce__: its copies in spawned workers have its error handler too."""
    return _rebuilt, (rebuild, arguments, vars(pipe).get("error_handler"))


def _rebuilt(rebuild: Callable[..., Pipe], arguments: tuple[Any, ...], handler: Callable[..., Any] | None) -> Pipe:
    pipe = rebuild(*arguments)
    if handler is not None:
        pipe.set_error_handler(handler)
    return pipe
