"""Atomic writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import srsly
from pipelines import blank, initialized

from spacy_bertft.errors import ConfigError
from spacy_bertft.files import (
    from_bytes,
    replace_file,
    replace_files,
    saving,
    staged_files,
    staged_folder,
    staged_pipeline,
    to_bytes,
)

pytestmark = pytest.mark.touches_transformers


class UnwritableError(Exception):
    pass


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def make(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def write_and_fail(stage, write, error):
    with stage as place:
        write(place)
        raise error


def staged(target):
    return staged_folder(target, lambda error: UnwritableError(f"{target}: {error}"))


def test_a_folder_is_there_when_it_is_whole(tmp_path):
    target = tmp_path / "new" / "deep" / "target"
    with staged(target) as folder:
        make(folder, a="1")
        assert not target.exists()
        assert not target.parent.exists()
    assert names(target) == ["a"]
    assert names(tmp_path) == ["new"]


def test_it_replaces_the_one_before(tmp_path):
    target = make(tmp_path / "target", old="1")
    with staged(target) as folder:
        make(folder, new="2")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["target"]


def test_an_error_leaves_what_was_there_and_passes(tmp_path):
    target = make(tmp_path / "target", old="1")
    for error in (ValueError("mine"), OSError("mine")):
        with pytest.raises(type(error), match="mine"):
            write_and_fail(staged(target), lambda folder: make(folder, new="2"), error)
        assert names(target) == ["old"]
        assert names(tmp_path) == ["target"]


def test_a_folder_below_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnwritableError, match="file"), staged(tmp_path / "file" / "a" / "target"):
        pytest.fail("the block ran")
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_moved_leaves_what_was_there(tmp_path, monkeypatch):
    target = make(tmp_path / "target", old="1")
    real = os.replace

    def refuse(source, destination):
        if Path(destination) == target and Path(source).name == "new":
            raise PermissionError(13, "Permission denied")
        real(source, destination)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UnwritableError, match="Permission denied"), staged(target) as folder:
        make(folder, new="2")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["target"]


def test_a_folder_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """So that it is whole after a power cut: all that is in it, then the folder it is in."""
    target, real, events = make(tmp_path / "target", old="1"), os.replace, []

    def move(source, destination):
        events.append(Path(destination))
        real(source, destination)

    monkeypatch.setattr(os, "replace", move)
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(os.fstat(handle).st_ino))
    with staged(target) as folder:
        make(folder, a="1")
        make(folder / "inside", b="2")
    moved = events.index(target)
    assert {path.stat().st_ino for path in (target, *target.rglob("*"))} == set(events[: moved - 1])
    assert events[moved + 1 :] == [tmp_path.stat().st_ino]


def test_files_appear_together(tmp_path):
    targets = [tmp_path / "a" / "one", tmp_path / "b" / "two"]
    with staged_files(targets) as temporary:
        for path in temporary:
            path.write_text(path.name)
        assert not any(target.exists() for target in targets)
    assert [names(target.parent) for target in targets] == [["one"], ["two"]]


def test_files_of_a_block_that_fails_are_deleted(tmp_path):
    old = make(tmp_path, one="old") / "one"
    with pytest.raises(OSError, match="mine"):
        write_and_fail(staged_files([old, tmp_path / "two"]), lambda paths: paths[0].write_text("new"), OSError("mine"))
    assert names(tmp_path) == ["one"]
    assert old.read_text() == "old"


def test_a_pipeline_is_not_written_over_other_things(tmp_path):
    pipeline = make(tmp_path / "pipeline", **{"config.cfg": ""})
    other = make(tmp_path / "other", thesis="x")
    for out, said in (
        (pipeline, "itself"), (pipeline / "inside", "itself"), (tmp_path, "itself"), (other, "something other"),
        (other / "thesis", "is a file"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=said), staged_pipeline(pipeline, out, overwrite=True):
            pytest.fail("the block ran")
    there = make(tmp_path / "there", **{"config.cfg": "old"})
    with pytest.raises(ConfigError, match="--overwrite"), staged_pipeline(pipeline, there, overwrite=False):
        pytest.fail("the block ran")
    with staged_pipeline(pipeline, there, overwrite=True) as folder:
        make(folder, **{"config.cfg": "new"})
    assert (there / "config.cfg").read_text() == "new"
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(ConfigError, match=r"can't be written: .*Check the path"),
        staged_pipeline(pipeline, tmp_path / "file" / "out", overwrite=False),
    ):
        pytest.fail("the block ran")


def test_a_file_is_replaced_or_stays(tmp_path):
    path = make(tmp_path, a="old") / "a"

    def fail(part):
        part.write_text("half")
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        replace_file(path, fail)
    assert (names(tmp_path), path.read_text()) == (["a"], "old")
    replace_file(path, lambda part: part.write_text("new"))
    assert (names(tmp_path), path.read_text()) == (["a"], "new")


def test_files_of_a_folder_are_replaced_together_or_stay(tmp_path):
    make(tmp_path, a="old", b="old")

    def fail(part):
        part.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        replace_files(tmp_path, {"a": lambda part: part.write_text("new"), "b": fail})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}
    replace_files(tmp_path, {"a": lambda part: part.write_text("new"), "b": lambda part: part.write_text("new")})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}


def test_parts_that_a_killed_save_left_go_with_the_next(tmp_path):
    make(tmp_path, **{"a.part": "half", "gone.txt.part": "half"})
    replace_files(tmp_path, {"a": lambda part: part.write_text("new")})
    assert names(tmp_path) == ["a"]


def test_what_cannot_be_saved_is_one_error_with_path_and_cause(tmp_path):
    with (
        pytest.raises(ConfigError, match=r"The head 'ner' can't be saved in '.*': .*No space left.* Expected .* Check"),
        saving("head 'ner'", tmp_path),
    ):
        raise OSError(28, "No space left on device")


# --- what is left of processes that were killed


STAGING = """
import sys, time
from pathlib import Path
from spacy_bertft.files import staged_files, staged_folder
with staged_folder(Path(sys.argv[1], "target"), RuntimeError) as folder, staged_files([Path(sys.argv[1], "x")]) as (x,):
    folder.mkdir()
    (folder / "big").write_text("1")
    x.write_text("1")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def staging(tmp_path):
    """A process that stages a folder and a file in tmp_path/place, and the names that it made there."""
    place = make(tmp_path / "place")
    process = subprocess.Popen([sys.executable, "-c", STAGING, str(place)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield place, process
    process.kill()
    process.wait()
    process.stdout.close()


def kill(process):
    process.kill()
    process.wait()


def stage(place, how):
    if how == "folder":
        with staged(place / how) as folder:
            make(folder, a="1")
    else:
        with staged_files([place / how]) as (temporary,):
            temporary.write_text("1")


posix = pytest.mark.skipif(os.name != "posix", reason="only there is it known who is alive")


@posix
@pytest.mark.parametrize("how", ["folder", "files"])
def test_what_a_killed_process_staged_is_removed(staging, how):
    place, process = staging
    kill(process)
    assert len(names(place)) == 2
    stage(place, how)
    assert names(place) == [how]


@posix
def test_what_a_living_process_staged_stays(staging):
    place, _ = staging
    before = names(place)
    stage(place, "folder")
    stage(place, "files")
    assert names(place) == [*before, "files", "folder"]


@posix
def test_what_another_host_staged_stays(staging):
    place, process = staging
    kill(process)
    for path in list(place.iterdir()):
        path.rename(path.with_name(re.sub(r"^\.bertft-[^-]+-", ".bertft-elsewhere-", path.name)))
    make(place / ".bertft-abcdefgh", old="1")  # of a version that did not say who made it
    before = names(place)
    stage(place, "folder")
    assert names(place) == [*before, "folder"]


@posix
def test_the_only_copy_of_a_folder_is_not_removed(staging):
    """Killed between the move of the old folder and that of the new one."""
    place, process = staging
    kill(process)
    (holder,) = (path for path in place.iterdir() if path.is_dir())
    make(holder / "old", a="1")
    stage(place, "folder")
    assert names(place) == [holder.name, "folder"]
    (holder / "new/big").unlink()
    (holder / "new").rmdir()  # it was moved: what it replaced is left
    stage(place, "files")
    assert names(place) == ["files", "folder"]


@posix
def test_a_folder_that_cannot_be_read_may_be_written(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    stage(tmp_path, "files")
    stage(tmp_path, "folder")
    monkeypatch.undo()
    assert names(tmp_path) == ["files", "folder"]


@posix
def test_a_host_whose_name_goes_on_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node-1")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left = [f".bertft-node%2D1-{gone.pid}-a.tmp", f".bertft-node-1-{gone.pid}-a.tmp", f".bertft-node-{gone.pid}-a.tmp"]
    make(tmp_path, **dict.fromkeys(left, "1"))
    stage(tmp_path, "files")
    assert names(tmp_path) == sorted([*left[1:], "files"])


def test_a_folder_in_bytes(tmp_path):
    make(tmp_path / "in" / "deep", b="2")
    packed = to_bytes(lambda folder: make(folder / "deep", b="2") and make(folder, a="1"))
    assert from_bytes(packed, lambda folder: ((folder / "a").read_text(), (folder / "deep/b").read_text())) == (
        "1",
        "2",
    )


@pytest.mark.parametrize(
    "name",
    ["../x", "/tmp/x", "a/../../b", "a/../b", "..", ".", "", "a//b", "./a", "C:\\x", "a\\..\\..\\b", "C:x", "x\0"],
)
def test_bytes_write_no_file_outside_of_their_folder(tmp_path, name):
    packed = srsly.msgpack_dumps({"fine": b"1", name: b"2"})
    with pytest.raises(ConfigError, match=r"a file named .*; expected names inside one folder"):
        from_bytes(packed, lambda folder: None)
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("packed", [b"", b"\xc1", srsly.msgpack_dumps([1]), srsly.msgpack_dumps({"a": "text"})])
def test_bytes_of_something_else_are_refused(packed):
    with pytest.raises(ConfigError, match=r"expected the result of to_bytes"):
        from_bytes(packed, lambda folder: None)


def test_a_pipeline_in_bytes_writes_no_file_outside_either(tiny_bert, tmp_path, monkeypatch):
    """Through spaCy: the bytes of the component are inside those of the pipeline."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "inside"))
    (tmp_path / "inside").mkdir()
    nlp = initialized(tiny_bert)
    content = srsly.msgpack_loads(nlp.to_bytes())
    inside = srsly.msgpack_loads(content["encoder"])
    content["encoder"] = srsly.msgpack_dumps({**inside, "../../planted": b"x"})
    with pytest.raises(ConfigError, match=r"a file named '\.\./\.\./planted'"):
        blank(tiny_bert).from_bytes(srsly.msgpack_dumps(content))
    assert not list(tmp_path.rglob("planted"))
