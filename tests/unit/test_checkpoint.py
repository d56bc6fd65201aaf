# SPDX-License-Identifier: MIT
"""Checkpoints: what was saved comes back; what was damaged is refused by name; a save that
fails or is cut off at any point leaves the older ones as they were."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ane_native import checkpoint
from ane_native.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    replace_file,
    save_checkpoint,
    verify_checkpoint,
)
from ane_native.errors import CheckpointError

FILES = ("weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def arrays(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    weights = {"b": rng.standard_normal((3, 5)).astype(np.float32), "a": np.ones(7, np.float32)}
    moments = {
        f"m.{n}": rng.standard_normal(w.shape).astype(np.float32) for n, w in weights.items()
    }
    return weights, moments


def save(folder: Path, step: int, seed: int = 0, **state: object) -> Path:
    return save_checkpoint(folder, step, *arrays(seed), {"updates": step, **state})


# =============================== Round trip =====================================


def test_what_was_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    big = 2**120 + 1  # as in the state of a random generator
    path = save(tmp_path / "checkpoints", 7, seed=3, rng={"state": big}, x=[1.5, None, "é"])
    for given in (path, tmp_path, tmp_path / "checkpoints", path / FILES[0]):
        got = load_checkpoint(given)
        weights, moments = arrays(3)
        assert got.path == path
        for want, have in ((weights, got.weights), (moments, got.optimizer)):
            assert have.keys() == want.keys()
            assert all(have[n].tobytes() == want[n].tobytes() for n in want)
            assert all(have[n].shape == want[n].shape for n in want)
        assert got.state["rng"]["state"] == big
        assert got.state["x"] == [1.5, None, "é"]
    assert load_checkpoint(path, optimizer=False).optimizer == {}


def test_arrays_that_are_views_are_saved_as_they_look(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = save_checkpoint(tmp_path, 1, {"t": whole.T, "s": whole[:, 1]}, {}, {})
    got = load_checkpoint(path).weights
    assert got["t"].tolist() == whole.T.tolist()
    assert got["s"].tolist() == whole[:, 1].tolist()


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = save(tmp_path / "one", 5), save(tmp_path / "two", 5)
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_other_programs_can_read_the_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = save(tmp_path, 1, seed=4)
    assert load_file(path / FILES[0])["b"].tobytes() == arrays(4)[0]["b"].tobytes()


# =============================== Which one ======================================


def test_the_newest_is_taken_and_the_last_three_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 9_999_999):
        save(tmp_path, step)
    names = [p.name for p in list_checkpoints(tmp_path)]
    assert names == ["step-000002", "step-000010", "step-9999999"]
    assert load_checkpoint(tmp_path).state["updates"] == 9_999_999


def test_a_step_that_exists_is_not_written_over(tmp_path: Path) -> None:
    first, second = save(tmp_path, 3, seed=1), save(tmp_path, 3, seed=2)
    assert first != second
    assert load_checkpoint(first).weights["b"].tobytes() == arrays(1)[0]["b"].tobytes()
    assert load_checkpoint(tmp_path).path == second


def test_a_damaged_newest_is_skipped_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    (newest / FILES[0]).write_bytes(b"")
    assert load_checkpoint(tmp_path).state["updates"] == 1
    assert str(newest / FILES[0]) in caplog.text
    with pytest.raises(CheckpointError, match="step-000002"):
        load_checkpoint(newest)


@pytest.mark.parametrize("what", ["nothing", "folder", "file"])
def test_no_checkpoint_is_an_error_that_names_the_place(what: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    if what == "folder":
        place.mkdir()
    if what == "file":
        place.write_text("x")
    with pytest.raises(
        CheckpointError,
        match="here: (no such file|expected .* found none|expected .* another file)",
    ):
        load_checkpoint(place)


# =============================== Damage =========================================


@pytest.mark.parametrize("name", FILES)
def test_every_single_flipped_bit_is_noticed_and_the_file_named(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    file = path / name
    good = file.read_bytes()
    rng = np.random.default_rng(1)
    places = range(len(good)) if len(good) < 700 else rng.choice(len(good), 300, replace=False)
    for at in places:
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(bytes(bad))
        for read in (load_checkpoint, verify_checkpoint):
            with pytest.raises(CheckpointError) as caught:
                read(path)
            assert str(path) in str(caught.value)
            if name != "manifest.json":  # its words may point at another file
                assert name in str(caught.value)
    file.write_bytes(good)
    load_checkpoint(path)
    verify_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_noticed_and_the_file_named(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    file = path / name
    good = file.read_bytes()
    for length in {0, 1, 7, 8, 9, len(good) // 2, len(good) - 1}:
        file.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(path)
        with pytest.raises(CheckpointError, match=name):
            verify_checkpoint(path)
    file.unlink()
    for read in (load_checkpoint, verify_checkpoint):
        with pytest.raises(CheckpointError, match=name):
            read(path)
    file.mkdir()
    for read in (load_checkpoint, verify_checkpoint):
        with pytest.raises(CheckpointError, match=name):
            read(path)


def test_a_consistent_manifest_over_nonsense_is_still_refused(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    nonsense = (10**15).to_bytes(8, "little") + b"{}"
    (path / FILES[0]).write_bytes(nonsense)
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["sha256"]
    digest = hashlib.sha256(nonsense).hexdigest()
    manifest["files"][FILES[0]] = {"bytes": len(nonsense), "sha256": digest}
    checksum = hashlib.sha256(checkpoint.to_json(manifest)).hexdigest()
    (path / "manifest.json").write_bytes(checkpoint.to_json({**manifest, "sha256": checksum}))
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: not a safetensors file"):
        load_checkpoint(path)


def test_files_have_the_bytes_of_the_library_and_are_not_made_in_memory(tmp_path: Path) -> None:
    from safetensors.numpy import save as library

    rng = np.random.default_rng(5)
    halves = {f"active.{n}": rng.standard_normal(3).astype(np.float16) for n in ("x", 'ä"b')}
    tensors = {"w": rng.standard_normal((500, 700)).astype(np.float32), **halves}
    tensors["scalar"] = np.array(3.0, np.float32)
    tensors["turned"] = rng.standard_normal((4, 6)).astype(np.float32).T
    tracemalloc.start()
    path = save_checkpoint(tmp_path, 1, {"w": tensors["w"]}, tensors, {"updates": 1})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < tensors["w"].nbytes / 2
    dense = {n: np.ascontiguousarray(a) for n, a in tensors.items()}
    dense["scalar"] = tensors["scalar"]
    for name, values in ((FILES[0], {"w": dense["w"]}), (FILES[1], dense)):
        assert (path / name).read_bytes() == library(values, metadata={"format": checkpoint.FORMAT})
    found = load_checkpoint(path).optimizer
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert (found[name] == value).all()


def test_masters_that_are_not_float32_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, {"w": np.zeros(3, np.float16)}, {}, {"updates": 1})
    with pytest.raises(CheckpointError, match="'w': expected float32, got float16"):
        load_checkpoint(path)


# =============================== Saves that fail ================================

CALLS = [("fsync", n) for n in range(7)] + [("rename", 0), ("write", 0), ("write", 2), ("write", 3)]


@pytest.mark.parametrize(("call", "after"), CALLS)
def test_a_save_that_fails_anywhere_keeps_the_older_one(
    call: str, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, seed=1)
    count = [0]
    target, name = (checkpoint, "write_file") if call == "write" else (os, call)
    real = getattr(target, name)

    def failing(*args: object, **kwargs: object) -> object:
        count[0] += 1
        if count[0] > after:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(target, name, failing)
    said = None
    try:
        save(tmp_path, 2, seed=2)
    except CheckpointError as error:
        said = str(error)
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.partial"))
    assert (said is not None) == (count[0] > after)
    assert said is None or ("No space left" in said and "step-000002" in said)
    # The new one is there whole, or not at all.
    got = load_checkpoint(tmp_path).state["updates"]
    assert got == 1 or load_checkpoint(tmp_path / "step-000002").state["updates"] == 2
    assert (
        load_checkpoint(tmp_path / "step-000001").weights["b"].tobytes()
        == arrays(1)[0]["b"].tobytes()
    )
    save(tmp_path, 3)


def test_what_a_crash_left_over_is_not_taken_and_is_removed(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / "step-000002.partial")
    assert load_checkpoint(tmp_path).path == path
    save(tmp_path, 3)
    assert not list(tmp_path.glob("*.partial"))


def test_state_that_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    for bad in (float("nan"), object()):
        with pytest.raises(CheckpointError, match="step-000001"):
            save(tmp_path, 1, x=bad)
    assert list(tmp_path.iterdir()) == []


def test_a_replaced_file_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    replace_file(path, b"old")

    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
