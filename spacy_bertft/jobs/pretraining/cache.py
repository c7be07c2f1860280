"""Cache of tokenised raw text in memory-mapped files: a corpus may be larger than memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from spacy_bertft.errors import ConfigError, DataError, data_error
from spacy_bertft.files import staged_folder
from spacy_bertft.jobs.pretraining.texts import OnBytesRead, read_documents, text_files
from spacy_bertft.jobs.pretraining.tokenise import Encode, bare, in_batches, make_encode, tokenizer_hash
from spacy_bertft.jobs.text_files import parse_json
from spacy_bertft.types import Ints

_VERSION = 1  # of the files below
_META, _IDS, _TEXTS, _DOCUMENTS, _COUNTS = "cache.json", "ids.bin", "texts.bin", "documents.bin", "counts.bin"


@dataclass(frozen=True, eq=False)
class Cache:
    """X texts of Y documents as subwords, without special tokens. The arrays are read-only and stay on disk.

    A text has at least one subword, a document at least one text. To use a cache in another process, open it there:
    pickling would read all of it.
    """

    ids: NDArray[Any]  # (S,) uint16 or uint32
    text_ends: Ints  # (X,) index after each text's last subword
    document_ends: Ints  # (Y,) index after each document's last text
    counts: Ints  # (V,) how often each subword of the vocabulary occurs
    n_bytes: int  # of the texts in UTF-8
    tokenizer_hash: str  # of the tokenizer that made it


def find_or_build(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    text_key: str = "text",
    progress: OnBytesRead | None = None,
) -> Cache:
    """Open the cache in `folder` if it is of the same, unchanged files and the same tokenizer; else build it."""
    key = _key(text_files(paths), tokenizer, text_key)
    try:
        meta = _read_meta(folder)
        if all(meta.get(name) == value for name, value in key.items()):
            return open_cache(folder)
    except DataError:  # there is none, or it is damaged
        pass
    return build_cache(paths, tokenizer, folder, text_key=text_key, progress=progress)


def build_cache(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    text_key: str = "text",
    progress: OnBytesRead | None = None,
) -> Cache:
    """Tokenise all texts of files and folders to `folder`, which appears once complete; an old cache is replaced.

    paths, text_key, progress: see `read_documents`.
    tokenizer: not changed; its truncation and padding are not used. Special tokens that are written out in the texts,
        such as "[MASK]", are read as plain text.
    """
    plain = bare(tokenizer)
    key = _key(text_files(paths), tokenizer, text_key)
    size = max(plain.get_vocab(with_added_tokens=True).values()) + 1
    dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
    encode = make_encode(plain, dtype)
    _check_target(folder)
    with staged_folder(folder, partial(_unwritable, folder)) as part, _Writer(folder, part, size) as writer:

        def note(done: int, total: int) -> None:
            writer.needed = writer.written * total // done
            if progress is not None:
                progress(done, total)

        for texts, ends in in_batches(read_documents(paths, text_key=text_key, progress=note)):
            writer.add(texts, ends, encode)
        numbers = {"n_documents": writer.n_documents, "n_texts": writer.n_texts, "n_subwords": writer.n_subwords}
        meta = {**key, "dtype": dtype.name, **numbers, "n_bytes": writer.n_bytes, "n_vocabulary": size}
        if not writer.n_subwords:
            raise data_error(
                str(paths[0]),
                found="texts that the tokenizer reduces to nothing",
                expected="at least one subword",
                fix="check that the texts and the tokenizer belong together",
            )
        writer.close(meta)
    return open_cache(folder)


def open_cache(folder: Path) -> Cache:
    """Map the cache that `build_cache` wrote to `folder`."""
    meta = _read_meta(folder)
    return Cache(
        ids=_map(folder / _IDS, np.dtype(meta["dtype"]).newbyteorder("<"), meta["n_subwords"]),
        text_ends=_map(folder / _TEXTS, np.dtype("<i8"), meta["n_texts"]),
        document_ends=_map(folder / _DOCUMENTS, np.dtype("<i8"), meta["n_documents"]),
        counts=_map(folder / _COUNTS, np.dtype("<i8"), meta["n_vocabulary"]),
        n_bytes=meta["n_bytes"],
        tokenizer_hash=meta["tokenizer"],
    )


class _Writer:
    """Appends batches to the files of a cache.

    The files are not buffered (batches are large), so that a full disk raises on writing, not on closing.
    """

    def __init__(self, folder: Path, part: Path, size: int) -> None:
        self.folder = folder  # for messages
        self.part = part  # where the files are written
        self.n_documents = self.n_texts = self.n_subwords = self.n_bytes = 0
        self.written = 0  # bytes
        self.needed = 0  # bytes of the whole cache, an estimate; 0: unknown
        self._counts = np.zeros(size, np.int64)  # (V,)
        self._last_end = 0  # of a document, in texts
        self._files: dict[str, FileIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Writer:
        with _writing(self.folder):
            self.part.mkdir()
            for name in (_IDS, _TEXTS, _DOCUMENTS):
                self._files[name] = self._stack.enter_context(FileIO(self.part / name, "w"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, texts: Sequence[str], document_ends: Sequence[int], encode: Encode) -> None:
        """Tokenise and write texts; the last document may continue in the next call."""
        ids, counts = encode(texts)
        kept = counts > 0  # (X,) texts with at least one subword
        written = np.concatenate([[0], np.cumsum(kept)]) + self.n_texts  # (X + 1,) texts written so far
        ends = written[np.array(document_ends, np.int64)]
        ends = ends[np.diff(ends, prepend=self._last_end) > 0]
        text_ends = np.cumsum(counts)[kept] + self.n_subwords
        self._append(_IDS, ids)
        self._append(_TEXTS, text_ends.astype("<i8"))
        self._append(_DOCUMENTS, ends.astype("<i8"))
        self._counts += np.bincount(ids, minlength=len(self._counts))
        self._last_end = int(ends[-1]) if len(ends) else self._last_end
        self.n_documents += len(ends)
        self.n_texts += len(text_ends)
        self.n_subwords += len(ids)
        self.n_bytes += sum(len(text.encode()) for text in texts)

    def close(self, meta: Mapping[str, object]) -> None:
        """Close the files, and write the counts and the metadata."""
        with _writing(self.folder):
            self._stack.close()
            self._counts.astype("<i8").tofile(self.part / _COUNTS)
            (self.part / _META).write_text(json.dumps(meta, indent=1), encoding="utf-8")

    def _append(self, name: str, values: NDArray[Any]) -> None:
        rest = memoryview(values.tobytes())
        with _writing(self.folder, needed=self.needed):
            while rest:
                rest = rest[self._files[name].write(rest) :]
        self.written += values.nbytes


@contextmanager
def _writing(folder: Path, *, needed: int = 0) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise _unwritable(folder, err, needed=needed) from err


def _unwritable(folder: Path, err: OSError, *, needed: int = 0) -> ConfigError:
    space = f"about {max(needed // 10**6, 1)} MB" if needed else "about half the size of the plain text"
    return ConfigError(
        f"{folder}: found that no cache can be written there ({err.strerror or err}); expected a folder to write "
        f"to, with {space} free; fix: check the path, its permissions and the free space"
    )


def _check_target(folder: Path) -> None:
    """Raise ConfigError if the place of a new cache is taken by anything else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: found a file; expected a folder, or a path that is free; fix: name another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _META).is_file():
        raise ConfigError(
            f"{folder}: found a folder that is not a cache; expected a cache, an empty folder, or a path "
            "that is free; fix: name another"
        )


def _key(files: Sequence[Path], tokenizer: Tokenizer, text_key: str) -> dict[str, object]:
    """What a cache depends on, as stored in its cache.json."""
    stats = [(path.resolve(), path.stat()) for path in files]
    sources = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    return {"version": _VERSION, "tokenizer": tokenizer_hash(tokenizer), "text_key": text_key, "sources": sources}


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / _META
    fix = "build it again"
    try:
        content = path.read_bytes()
    except OSError as err:
        found, expected = f"no cache.json ({err.strerror})", "the folder of a cache, with cache.json in it"
        raise data_error(str(folder), found=found, expected=expected, fix="check the path, or build one") from None
    meta = parse_json(content, str(path), expected="the metadata of a cache", fix=fix)
    if not isinstance(meta, dict) or meta.get("version") != _VERSION:
        version = meta.get("version") if isinstance(meta, dict) else None
        raise data_error(str(path), found=f"a cache of format {version}", expected=f"format {_VERSION}", fix=fix)
    return meta


def _map(path: Path, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    expected = count * dtype.itemsize
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        raise data_error(
            str(path),
            found="no such file" if found is None else f"a file of {found} bytes",
            expected=f"{expected} bytes, as cache.json says",
            fix="build the cache again",
        )
    # A plain array, since slices of a memmap are slow.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
