"""A fine-tuned Hugging Face checkpoint as a spaCy pipeline, with its head."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import spacy
import torch
from spacy.language import Language

from spacy_bertft import compat
from spacy_bertft.components.encoder_pipe import EncoderPipe
from spacy_bertft.components.fill_mask_pipe import FillMaskPipe
from spacy_bertft.components.head_files import pack_head
from spacy_bertft.components.head_modules import HiddenHead
from spacy_bertft.components.head_pipe import HeadPipe
from spacy_bertft.encoder.checkpoint import Checkpoint, saved_files
from spacy_bertft.encoder.encoder import Encoder
from spacy_bertft.encoder.fill_mask import FillMask
from spacy_bertft.encoder.folders import find_folder, require_files
from spacy_bertft.encoder.loading import load_tokenizer, loading
from spacy_bertft.encoder.settings import EncoderSettings
from spacy_bertft.encoder.weights_check import check_finite, listed, may_be_left
from spacy_bertft.errors import ConfigError, EncoderError
from spacy_bertft.files import staged_pipeline
from spacy_bertft.jobs.huggingface.compare import largest_difference, our_logits, sample, their_logits
from spacy_bertft.jobs.huggingface.head_weights import to_ours
from spacy_bertft.jobs.huggingface.plan import TASK_HEADS, Plan, Task, choose_task, read_plan
from spacy_bertft.jobs.huggingface.tags import OUTSIDE
from spacy_bertft.jobs.text_files import check_model
from spacy_bertft.jobs.writing import writing
from spacy_bertft.learning.shim import shim_of
from spacy_bertft.tasks.entity_spans import Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# In which the logits are compared; the pipeline's own settings are spaCy's defaults.
_EXACT = EncoderSettings(device="cpu", precision="float32")


@dataclass(frozen=True)
class Imported:
    """A pipeline made of a checkpoint.

    architecture  transformers' class of the checkpoint
    component     name of the component that is its head
    difference    the largest difference between its logits and transformers', on built-in texts; None: not compared
    """

    nlp: Language
    task: Task
    architecture: str
    component: str
    difference: float | None


def from_huggingface(
    name: str,
    *,
    task: Task | None = None,
    lang: str = "en",
    pairs: bool = False,
    scheme: Scheme | None = None,
    outside: str = OUTSIDE,
    revision: str = "main",
) -> Language:
    """Make a pipeline of a fine-tuned Hugging Face checkpoint: a bertft_encoder and the checkpoint's own head.

    name: a folder, a hub name, or package/folder of an installed package.
    task: "ner", "textcat", "multilabel", "pair", "qa", "regression" or "fill-mask"; None: what its config.json says.
    lang: code of the spaCy language whose tokenizer splits the texts into tokens.
    pairs: whether a sequence classifier reads pairs of texts.
    scheme: of a token classifier's tags, "bio", "iob1", "biluo" or "io"; None: found from its labels.
    outside: a token classifier's label for tokens outside of entities.
    revision: branch, tag or commit on the hub.

    The logits are compared with transformers' on built-in texts. Raises a ConfigError or an EncoderError if no head
    of this package gives the same.
    """
    found = read(name, task=task, lang=lang, pairs=pairs, scheme=scheme, outside=outside, revision=revision).nlp
    for _, pipe in found.components:
        if isinstance(pipe, EncoderPipe):  # it was made to be compared; now as its settings say
            one = pipe.encoder
            pipe.set_encoder(Encoder(one.checkpoint, pipe.model.attrs["settings"], model=one.loaded))
    return found


def import_checkpoint(
    name: str,
    output: Path,
    *,
    task: Task | None = None,
    lang: str = "en",
    pairs: bool = False,
    scheme: Scheme | None = None,
    outside: str = OUTSIDE,
    revision: str = "main",
    overwrite: bool = False,
) -> Imported:
    """Write the pipeline of `from_huggingface` to the folder `output`. overwrite: replace a pipeline there."""
    with staged_pipeline(find_folder(name), output, overwrite=overwrite) as folder:
        found = read(name, task=task, lang=lang, pairs=pairs, scheme=scheme, outside=outside, revision=revision)
        with writing(output):
            found.nlp.to_disk(folder)
    return found


def read(
    name: str, *, task: Task | None, lang: str, pairs: bool, scheme: Scheme | None, outside: str, revision: str
) -> Imported:
    """Make the pipeline; see `from_huggingface`."""
    check_model(name)
    folder = find_folder(name)
    source = _Source(name, folder, revision)
    config = source.config()
    task = choose_task(config, name, task=task, pairs=pairs)
    head = TASK_HEADS[task]
    nlp = _blank(lang, pairs=pairs or task in ("pair", "qa"))
    if task == "fill-mask":
        pipe = nlp.add_pipe(head.factory, name=head.component, config={"model": name})
        assert isinstance(pipe, FillMaskPipe)
        pipe.fill_mask = FillMask.load(name, pipe.settings, revision=revision)
        kind = type(pipe.fill_mask.model.model).__name__
        return Imported(nlp, task, kind, head.component, None)
    plan = read_plan(config, name, task, outside=outside, scheme=scheme)
    files, model = source.model(plan)
    return Imported(nlp, task, type(model).__name__, head.component, _build(nlp, source, plan, files, model))


def _build(nlp: Language, source: _Source, plan: Plan, files: dict[str, bytes], model: PreTrainedModel) -> float | None:
    """Add encoder and head to a blank pipeline. Returns how far its logits are from transformers'."""
    checkpoint = Checkpoint(files)
    weights = to_ours(model.state_dict(), plan.names, plan.order)
    # Before the encoder, which changes the attention of transformers' model.
    like = Encoder(checkpoint, _EXACT)
    texts = sample(like.splitter, like.window)
    theirs = their_logits(model, like.splitter, texts)
    encoder = Encoder(checkpoint, _EXACT, model=getattr(model, plan.family.prefix))
    block = {"@architectures": "spacy-bertft.Encoder.v1", "name": source.name, "revision": source.revision}
    pipe = nlp.add_pipe("bertft_encoder", name="encoder", config={"model": block})
    assert isinstance(pipe, EncoderPipe)
    pipe.set_encoder(encoder)
    head = TASK_HEADS[plan.task]
    made = nlp.add_pipe(head.factory, name=head.component, config=dict(plan.settings))
    assert isinstance(made, HeadPipe)
    made.task.check(plan.labels)
    statistics = {"mean": 0.0, "scale": 1.0} if plan.task == "regression" else {}
    cfg = {**made.cfg, "labels": list(plan.labels), "width": encoder.width, "statistics": statistics}
    made.from_bytes(pack_head(cfg, safetensors.torch.save(weights)))
    module = shim_of(made.model).module
    assert isinstance(module, HiddenHead)
    return largest_difference(our_logits(encoder, module, texts), theirs, plan.order)


def _blank(lang: str, *, pairs: bool) -> Language:
    tokenizer = {"nlp": {"tokenizer": {"@tokenizers": "spacy-bertft.PairTokenizer.v1"}}} if pairs else {}
    try:
        return spacy.blank(lang, config=tokenizer)
    except ImportError as error:
        raise ConfigError(
            f"The language is {lang!r}, which spaCy does not know. Expected a code such as en, de or xx (any "
            "language). Correct it (--lang)."
        ) from error


@dataclass(frozen=True)
class _Source:
    """Where a checkpoint is. folder: None if on the hub."""

    name: str
    folder: Path | None
    revision: str

    @property
    def place(self) -> str:
        """As from_pretrained takes it."""
        return self.name if self.folder is None else str(self.folder)

    @property
    def where(self) -> dict[str, Any]:
        """The other arguments of from_pretrained."""
        return {"revision": self.revision} if self.folder is None else {"local_files_only": True}

    def config(self) -> dict[str, Any]:
        """The checkpoint's config.json, as transformers reads it."""
        from transformers import AutoConfig

        if self.folder is not None:
            require_files(self.folder)
        with loading(self.name, self.folder), compat.quiet_transformers():
            config = AutoConfig.from_pretrained(self.place, trust_remote_code=False, **self.where)
            found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
        return found

    def model(self, plan: Plan) -> tuple[dict[str, bytes], PreTrainedModel]:
        """The files of config and tokenizer, and transformers' model with its head."""
        import transformers

        kind = f"AutoModelFor{TASK_HEADS[plan.task].kind}"
        with loading(self.name, self.folder):
            tokenizer = load_tokenizer(self.place, **self.where)
            with compat.quiet_transformers():
                model, report = getattr(transformers, kind).from_pretrained(
                    self.place,
                    trust_remote_code=False,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,
                    **compat.dtype_argument(torch.float32),
                    **self.where,
                )
                files = saved_files(tokenizer, model.config)
        self._check(model, report, plan)
        check_finite(self.name, model.state_dict())
        return files, model

    def _check(self, model: PreTrainedModel, report: dict[str, Any], plan: Plan) -> None:
        """Raise an EncoderError unless the checkpoint has exactly the weights of its model."""
        kind = type(model).__name__
        of_head = tuple(f"{name}." for name in plan.names.parts().values())
        lacking = [name for name in sorted(report["missing_keys"]) if name.startswith(of_head) or not may_be_left(name)]
        other = [name for name in sorted(report["unexpected_keys"]) if not may_be_left(name)]
        sizes = [
            f"{name} is {_size(found)}, expected {_size(wanted)}" for name, found, wanted in report["mismatched_keys"]
        ]
        if sizes:
            raise EncoderError(
                f"The weights of {self.name!r} don't fit its config.json: {listed(sizes)}. Expected those of a {kind} "
                f"with {model.config.num_labels} labels (id2label). Correct config.json, or copy both files again."
            )
        if lacking:
            raise EncoderError(
                f"The checkpoint {self.name!r} lacks {len(lacking)} weights of a {kind}: {listed(lacking)}. Expected a "
                "fine-tuned checkpoint with its trained head. Check the name, and the task if you gave one."
            )
        if other:
            raise EncoderError(
                f"The checkpoint {self.name!r} has {len(other)} weights that a {kind} does not use: {listed(other)}. "
                "Expected no others: its head computes more than transformers' does, so the results would differ. "
                "This checkpoint can't be imported with its head."
            )


def _size(shape: Any) -> str:
    return " x ".join(map(str, shape))
