"""Raw text, tokenised once into files that are mapped into memory: a corpus may be larger than memory."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from spacy_bertft.errors import ConfigError, DataError, data_error
from spacy_bertft.files import replace_folder
from spacy_bertft.jobs.pretraining.texts import Progress, read_documents, text_files
from spacy_bertft.types import Ints

VERSION = 1  # of the files below
META, IDS, TEXTS, DOCUMENTS, COUNTS = "cache.json", "ids.bin", "texts.bin", "documents.bin", "counts.bin"
BATCH_TEXTS, BATCH_CHARACTERS = 2_000, 1_000_000  # tokenised at once; either is enough
MAX_TABLE = 4_000_000  # characters of words in a WordTable, 100 MB or so
_LINE = 100  # words of a line that WordTable tokenises

Encode = Callable[[Sequence[str]], tuple[NDArray[Any], Ints]]


@dataclass(frozen=True, eq=False)
class Cache:
    """X texts of Y documents as subwords, without special ones. The arrays are read-only, and stay on disk.

    A text has at least one subword, a document at least one text. To use a cache in another process, open it there:
    pickling reads it all.
    """

    ids: NDArray[Any]  # (S,) uint16 or uint32
    text_ends: Ints  # (X,) subword behind each text's last
    document_ends: Ints  # (Y,) text behind each document's last
    counts: Ints  # (V,) how often each subword of the vocabulary occurs
    n_bytes: int  # of the texts in UTF-8
    tokenizer_hash: str  # of the tokenizer that made it


def find_or_build(
    paths: Sequence[Path],
    tokenizer: Tokenizer,
    folder: Path,
    *,
    text_key: str = "text",
    progress: Progress | None = None,
) -> Cache:
    """The cache in `folder` if it was built from the same files, unchanged, with the same tokenizer; else a new one."""
    key = _key(text_files(paths), _bare(tokenizer), text_key)
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
    progress: Progress | None = None,
) -> Cache:
    """Tokenise all texts of files and folders to `folder`, which is there once it is whole; an old cache is replaced.

    paths, text_key, progress: see `read_documents`.
    tokenizer: is not changed; its truncation and padding are not used. Special subwords that are written out in the
        texts, such as "[MASK]", are read as plain text.
    """
    bare = _bare(tokenizer)
    key = _key(text_files(paths), bare, text_key)
    size = max(bare.get_vocab(with_added_tokens=True).values()) + 1
    dtype = np.dtype("<u2" if size <= 1 << 16 else "<u4")
    with _staged(folder) as part, _Writer(folder, part, size) as writer:

        def note(done: int, total: int) -> None:
            writer.needed = writer.written * total // done
            if progress is not None:
                progress(done, total)

        documents = read_documents(paths, text_key=text_key, progress=note)
        _tokenise(documents, make_encode(bare, dtype), writer)
        numbers = {"n_documents": writer.n_documents, "n_texts": writer.n_texts, "n_subwords": writer.n_subwords}
        meta = {**key, "dtype": dtype.name, **numbers, "n_bytes": writer.n_bytes, "n_vocabulary": size}
        if not writer.n_subwords:
            raise data_error(
                str(paths[0]),
                found="texts of which the tokenizer leaves nothing",
                expected="at least one subword",
                fix="check that the texts and the tokenizer belong together",
            )
        writer.close(meta)
    return open_cache(folder)


def open_cache(folder: Path) -> Cache:
    """Map the cache that `build_cache` wrote to `folder`."""
    meta = _read_meta(folder)
    return Cache(
        ids=_map(folder / IDS, np.dtype(meta["dtype"]).newbyteorder("<"), meta["n_subwords"]),
        text_ends=_map(folder / TEXTS, np.dtype("<i8"), meta["n_texts"]),
        document_ends=_map(folder / DOCUMENTS, np.dtype("<i8"), meta["n_documents"]),
        counts=_map(folder / COUNTS, np.dtype("<i8"), meta["n_vocabulary"]),
        n_bytes=meta["n_bytes"],
        tokenizer_hash=meta["tokenizer"],
    )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """What tells tokenizers apart; truncation and padding don't count."""
    return _hash(_bare(tokenizer))


# Tokenising


def make_encode(tokenizer: Tokenizer, dtype: np.dtype[Any]) -> Encode:
    """The fastest way from texts to the ids (S,) of all of them and their numbers (X,), for a bare tokenizer."""
    if splits_at_spaces(tokenizer):
        return WordTable(tokenizer, dtype)

    def encode(texts: Sequence[str]) -> tuple[NDArray[Any], Ints]:
        ids = [encoding.ids for encoding in encode_fast(tokenizer, texts)]
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.fromiter(chain.from_iterable(ids), dtype, int(counts.sum())), counts

    return encode


def encode_fast(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Encodings without special subwords, and without offsets where the version of tokenizers can."""
    encode = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    encodings: list[Encoding] = encode(texts, add_special_tokens=False)
    return encodings


def splits_at_spaces(tokenizer: Tokenizer) -> bool:
    """Whether a bare tokenizer gives "a b" the subwords of "a" and then those of "b", whatever a and b are.

    BERT's does. Its normalizer maps characters one by one, but for decomposition and order of combining marks, neither
    of which reaches over a space; the pre-tokenizer splits at spaces; WordPiece knows single words. An added token that
    isn't special (special ones are not looked for) might hold a space, so there must be none.
    """
    parts = json.loads(tokenizer.to_str())
    kinds = [(parts[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")]
    special = all(added["special"] for added in parts["added_tokens"])
    return special and kinds == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]


class WordTable:
    """Tokenises each word, here what stands between spaces, once; for tokenizers that split at spaces.

    Most words of a text have been seen before, and finding them in a dict takes a tenth of the time.
    """

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype[Any]) -> None:
        self._tokenizer = tokenizer
        self._dtype = dtype
        self._ids: dict[str, bytes] = {"": b""}  # word -> its ids, as they are written
        self._size = 0  # characters

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[Any], Ints]:
        """The ids (S,) of all texts, and how many each has (X,)."""
        if self._size > MAX_TABLE:
            self._ids, self._size = {"": b""}, 0
        split = [text.split(" ") for text in texts]
        new = list(set[str]().union(*split).difference(self._ids))
        self._size += sum(map(len, new))
        self._learn(new)
        found = [b"".join(map(self._ids.__getitem__, words)) for words in split]
        counts = np.fromiter(map(len, found), np.int64, len(found)) // self._dtype.itemsize
        return np.frombuffer(b"".join(found), self._dtype), counts

    def _learn(self, words: Sequence[str]) -> None:
        """Tokenise new words, many to a line, for a call for each takes twice as long.

        A subword belongs to the word that it starts in.
        """
        lines = [words[start : start + _LINE] for start in range(0, len(words), _LINE)]
        encodings = self._tokenizer.encode_batch([" ".join(line) for line in lines], add_special_tokens=False)
        for line, encoding in zip(lines, encodings, strict=True):
            starts = np.fromiter((start for start, _ in encoding.offsets), np.int64, len(encoding))
            word_ends = np.cumsum(np.fromiter(map(len, line), np.int64, len(line)) + 1)  # the space included
            ends = np.searchsorted(starts, word_ends) * self._dtype.itemsize
            ids = np.array(encoding.ids, self._dtype).tobytes()
            begin = 0
            for word, end in zip(line, ends.tolist(), strict=True):
                self._ids[word] = ids[begin:end]
                begin = end


def _tokenise(documents: Iterator[list[str]], encode: Encode, writer: _Writer) -> None:
    texts: list[str] = []
    ends: list[int] = []  # of documents, in `texts`
    size = 0
    for document in documents:
        for text in document:
            texts.append(text)
            size += len(text)
            if len(texts) >= BATCH_TEXTS or size >= BATCH_CHARACTERS:
                writer.add(texts, ends, encode)
                texts, ends, size = [], [], 0
        ends.append(len(texts))
    writer.add(texts, ends, encode)


def _bare(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that neither cuts off nor pads, and takes special tokens in texts for plain text."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


# Files


class _Writer:
    """Appends batches to the files of a cache.

    The files are not buffered (batches are large), so that a full disk shows where it is met, not when they are closed.
    """

    def __init__(self, folder: Path, part: Path, size: int) -> None:
        self.folder = folder  # for messages
        self.part = part  # what is written to
        self.n_documents = self.n_texts = self.n_subwords = self.n_bytes = 0
        self.written = 0  # bytes
        self.needed = 0  # bytes of the whole cache, an estimate; 0: unknown
        self._counts = np.zeros(size, np.int64)  # (V,)
        self._last_end = 0  # of a document, in texts
        self._files: dict[str, FileIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Writer:
        with _writing(self.folder):
            for name in (IDS, TEXTS, DOCUMENTS):
                self._files[name] = self._stack.enter_context(FileIO(self.part / name, "w"))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, texts: Sequence[str], document_ends: Sequence[int], encode: Encode) -> None:
        """Tokenise and write texts; the last document that is in them need not end there."""
        ids, counts = encode(texts)
        kept = counts > 0  # (X,) texts of which the tokenizer leaves something
        behind = np.concatenate([[0], np.cumsum(kept)]) + self.n_texts  # (X + 1,) texts written, behind each
        ends = behind[np.array(document_ends, np.int64)]
        ends = ends[np.diff(ends, prepend=self._last_end) > 0]
        text_ends = np.cumsum(counts)[kept] + self.n_subwords
        self._append(IDS, ids)
        self._append(TEXTS, text_ends.astype("<i8"))
        self._append(DOCUMENTS, ends.astype("<i8"))
        self._counts += np.bincount(ids, minlength=len(self._counts))
        self._last_end = int(ends[-1]) if len(ends) else self._last_end
        self.n_documents += len(ends)
        self.n_texts += len(text_ends)
        self.n_subwords += len(ids)
        self.n_bytes += sum(len(text.encode()) for text in texts)

    def close(self, meta: Mapping[str, object]) -> None:
        """Write what is left."""
        with _writing(self.folder):
            self._stack.close()
            self._counts.astype("<i8").tofile(self.part / COUNTS)
            (self.part / META).write_text(json.dumps(meta, indent=1), encoding="utf-8")

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
        space = f"about {max(needed // 10**6, 1)} MB" if needed else "about half the size of the plain text"
        raise ConfigError(
            f"{folder}: found that no cache can be written there ({err.strerror or err}); expected a folder to write "
            f"to, with {space} free; fix: check the path, its permissions and the free space"
        ) from err


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to write to, which is moved to `folder` if the block succeeds and deleted if it does not."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder}: found a file; expected a folder, or a path that is free; fix: name another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / META).is_file():
        raise ConfigError(
            f"{folder}: found a folder with other things than a cache; expected a cache, an empty folder, or a path "
            "that is free; fix: name another"
        )
    with _writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".bertft-cache-", dir=folder.parent))
    try:
        with _writing(folder):
            (holder / "new").mkdir()
        yield holder / "new"
        with _writing(folder):
            replace_folder(holder / "new", folder, old=holder / "old")
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _key(files: Sequence[Path], bare: Tokenizer, text_key: str) -> dict[str, object]:
    """What a cache depends on, as it is in its cache.json."""
    stats = [(path.resolve(), path.stat()) for path in files]
    sources = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    return {"version": VERSION, "tokenizer": _hash(bare), "text_key": text_key, "sources": sources}


def _hash(bare: Tokenizer) -> str:
    return hashlib.sha256(bare.to_str().encode()).hexdigest()


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / META
    fix = "build it again"
    try:
        meta = json.loads(path.read_bytes())
    except OSError as err:
        found, expected = f"no cache.json ({err.strerror})", "the folder of a cache, with cache.json in it"
        raise data_error(str(folder), found=found, expected=expected, fix="check the path, or build one") from None
    except ValueError as err:
        raise data_error(str(path), found=f"invalid JSON ({err})", expected="what a cache has", fix=fix) from None
    if not isinstance(meta, dict) or meta.get("version") != VERSION:
        version = meta.get("version") if isinstance(meta, dict) else None
        raise data_error(str(path), found=f"a cache of format {version}", expected=f"format {VERSION}", fix=fix)
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
    # As a plain array, for slices of a memmap are slow.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
