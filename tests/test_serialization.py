"""Models as tensors and JSON: what goes in comes out, and nothing is executed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from rmve._serialization import JSON_FILE, WEIGHTS_FILE, from_json, read_model, to_json, write_model


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        0.1,
        "name",
        [1, [2.5, None], "x"],
        {"a": {"b": [1, 2]}, "empty": {}},
        {0: "zero", 1: "one"},
        {("a"): 1},
        float("inf"),
    ],
    ids=str,
)
def test_plain_values(value):
    """Plain values survive the way through text, dictionaries with other keys than strings included."""
    assert from_json(json.loads(json.dumps(to_json(value)))) == value


def test_nan_survives():
    """NaN comes back as NaN."""
    assert np.isnan(from_json(json.loads(json.dumps(to_json(float("nan"))))))


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, 2, 3]),
        np.array([1, 2], dtype=np.int8),
        np.array([[0.1, np.inf], [1e-300, -3.0]]),
        np.array([0.1, 0.2], dtype=np.float32),
        np.array([True, False]),
        np.array([], dtype=float),
        np.array([[], []], dtype=float),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays(array, assert_same):
    """Arrays keep their values to the last bit, their dtype and their shape."""
    assert_same(array, from_json(json.loads(json.dumps(to_json(array)))))


@pytest.mark.parametrize("dtype", [object, "U5"])
def test_arrays_of_strings(dtype):
    """Strings come back as an object array, as scvi-tools' registry holds them."""
    back = from_json(json.loads(json.dumps(to_json(np.array(["a", "bb"], dtype=dtype)))))
    assert back.dtype == object
    assert back.tolist() == ["a", "bb"]


def test_numpy_scalars_and_tuples():
    """NumPy scalars become numbers and tuples lists."""
    assert to_json({"a": np.int64(3), "b": (np.float32(0.5), np.bool_(True))}) == {"a": 3, "b": [0.5, True]}


def test_frame():
    """A data frame of numbers, such as the training history, keeps index, its name, columns and values."""
    frame = pd.DataFrame({"train_loss": [3.5, 2.25, np.nan]}, index=pd.RangeIndex(3, name="epoch"))
    back = from_json(json.loads(json.dumps(to_json(frame))))
    pd.testing.assert_frame_equal(back, frame, check_index_type=False)
    assert back.index.name == "epoch"


def test_index():
    """An index is saved as an array."""
    assert from_json(to_json(pd.Index(["a", "b"]))).tolist() == ["a", "b"]


def test_refuses_other_objects():
    """An object without a plain form is refused by name instead of being pickled."""
    with pytest.raises(TypeError, match="A complex cannot be saved"):
        to_json({"value": 1j})


@pytest.fixture
def written(tmp_path) -> Path:
    """Folder with a small state dictionary and document."""
    write_model(tmp_path, "p_", {"w": torch.arange(4.0)}, {"name": "rmve", "values": np.array([1.5, 2.5])})
    return tmp_path


def test_write_and_read(written):
    """Tensors and document come back; no other file is left in the folder."""
    state, document = read_model(written, "p_", "cpu")
    torch.testing.assert_close(state["w"], torch.arange(4.0))
    assert document["name"] == "rmve"
    np.testing.assert_array_equal(document["values"], [1.5, 2.5])
    assert sorted(path.name for path in written.iterdir()) == ["p_model.json", "p_model.pt"]


@pytest.mark.parametrize("name", [WEIGHTS_FILE, JSON_FILE])
def test_missing_file(written, name):
    """A missing file is named."""
    (written / f"p_{name}").unlink()
    with pytest.raises(FileNotFoundError, match=name):
        read_model(written, "p_", "cpu")


@pytest.mark.parametrize("name", [WEIGHTS_FILE, JSON_FILE])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04\x95", b"[1, 2]", b"\xff\xfe\x00"])
def test_garbage(written, name, content):
    """Content of another format is a ValueError, whatever it is."""
    (written / f"p_{name}").write_bytes(content)
    with pytest.raises(ValueError, match="does not hold a model"):
        read_model(written, "p_", "cpu")


class _Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.parametrize("writer", [pickle.dump, torch.save], ids=["pickle", "torch"])
def test_nothing_is_executed(written, tmp_path, writer):
    """A pickle that would create a file when unpickled is refused without creating it."""
    target = tmp_path / "executed"
    with (written / f"p_{WEIGHTS_FILE}").open("wb") as file:
        writer({"w": _Malicious(target)}, file)
    with pytest.raises(ValueError, match="does not hold a model"):
        read_model(written, "p_", "cpu")
    assert not target.exists()
    with (written / f"p_{WEIGHTS_FILE}").open("rb") as file:  # the file does what this test says
        torch.load(file, weights_only=False) if writer is torch.save else pickle.load(file)
    assert target.exists()


def test_a_failed_write_leaves_the_old_model(written):
    """When something cannot be saved, the files of an earlier model stay as they are."""
    with pytest.raises(TypeError):
        write_model(written, "p_", {"w": torch.zeros(4)}, {"bad": object()})
    state, document = read_model(written, "p_", "cpu")
    assert state["w"].sum() == 6
    assert document["name"] == "rmve"
