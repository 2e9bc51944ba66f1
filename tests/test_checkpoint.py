"""save and load: what comes back, what other programs see, and files broken or in the way."""

import json
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import fastrnn as fr
from fastrnn.checkpoint import read_tensors, remove_temporaries, write_tensors
from fastrnn.module import Module


def model_of(seed=0, dtype="float32"):
    return fr.Sequential(
        fr.Embedding(5, 4, dtype=dtype, seed=seed), fr.Linear(4, 3, dtype=dtype, seed=seed)
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_model_computes_the_same_bit_for_bit(path, dtype):
    model, ids = model_of(dtype=dtype), np.array([[0, 4], [2, 2]])
    fr.save(model, path)
    loaded = fr.load(path)
    assert repr(loaded) == repr(model)
    assert np.array_equal(loaded(ids)[0], model(ids)[0])


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_may_be_a_string_or_a_path(path, kind):
    fr.save(fr.Linear(2, 3), kind(path))
    assert fr.load(kind(path)).out_features == 3


def test_a_model_with_values_that_are_not_finite_comes_back_as_it_was(path):
    layer = fr.Linear(3, 1, bias=False)
    layer.params["weight"] = [[np.nan, np.inf, -0.0]]
    fr.save(layer, path)
    assert fr.load(path)._flat.tobytes() == layer._flat.tobytes()


def test_other_programs_find_the_tensors_by_their_names(path):
    model = model_of()
    fr.save(model, path)
    tensors = load_file(path)
    assert tensors.keys() == model.state_dict().keys()
    assert np.array_equal(tensors["1.weight"], model.params["1.weight"])


def test_the_configuration_is_readable_json(path):
    fr.save(fr.Linear(3, 2, bias=False), path)
    description = json.loads(read_tensors(path)[1]["model"])
    assert description == {
        "class": "Linear",
        "config": {"in_features": 3, "out_features": 2, "bias": False, "dtype": "float32"},
    }


def test_a_class_of_ones_own_is_loaded_as_that_class(path):
    class Scale(Module):
        def __init__(self, size):
            self.size = size
            self._allocate([("factor", (size,))], "float32")

        def config(self):
            return {"size": self.size}

    scale = Scale(3)
    scale.params["factor"] = [1, 2, 3]
    fr.save(scale, path)
    loaded = fr.load(path)
    assert type(loaded) is Scale and loaded.params["factor"].tolist() == [1, 2, 3]


def test_loading_is_a_change_of_the_parameters(path):
    fr.save(fr.Linear(2, 2), path)
    assert fr.load(path)._version > 0


def test_saving_replaces_an_old_file(path):
    for seed in range(2):
        fr.save(model_of(seed), path)
    assert np.array_equal(fr.load(path)._flat, model_of(1)._flat)
    assert os.listdir(path.parent) == [path.name]


def test_saving_through_a_link_replaces_what_it_points_to(path, tmp_path):
    link = tmp_path / "best.safetensors"
    fr.save(model_of(0), path)
    link.symlink_to(path)
    fr.save(model_of(1), link)
    assert link.is_symlink() and np.array_equal(fr.load(path)._flat, model_of(1)._flat)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(path, monkeypatch, function):
    fr.save(model_of(0), path)

    def fail(*args):
        raise OSError(28, "No space left on device", "somewhere.tmp")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors'$"):
        fr.save(model_of(1), path)
    assert np.array_equal(fr.load(path)._flat, model_of(0)._flat)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("function", ["open", "fsync"])
def test_a_folder_that_cannot_be_flushed_is_no_failure_of_a_file_that_is_there(
    path, monkeypatch, function
):
    fr.save(model_of(0), path)
    original = getattr(os, function)

    def fail(what, *args):
        if stat.S_ISDIR(os.stat(what).st_mode if os.path.exists(what) else 0):
            raise OSError(22, "Invalid argument")
        return original(what, *args)

    monkeypatch.setattr(os, function, fail)
    fr.save(model_of(1), path)
    assert np.array_equal(fr.load(path)._flat, model_of(1)._flat)


def test_ctrl_c_while_writing_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    fr.save(model_of(0), path)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fr.save(model_of(1), path)
    assert np.array_equal(fr.load(path)._flat, model_of(0)._flat)
    assert os.listdir(path.parent) == [path.name]


def test_the_new_file_is_on_disk_before_it_takes_the_old_ones_place(path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, f=original, n=name: (order.append(n), f(*a))[1]
        )  # fmt: skip
    fr.save(model_of(), path)
    assert order[:2] == ["fsync", "replace"]


def test_a_folder_that_does_not_exist_is_an_error_that_names_the_path(path):
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere/model\.safetensors'$"):
        fr.save(model_of(), path.parent / "nowhere" / path.name)


def test_a_folder_in_the_way_is_an_error_that_names_the_path(path):
    path.mkdir()
    with pytest.raises(OSError, match=r"'.*model\.safetensors'$"):
        fr.save(model_of(), path)
    assert os.listdir(path.parent) == [path.name]
    with pytest.raises(OSError, match=r"'.*model\.safetensors'$"):
        fr.load(path)


def test_a_name_that_ends_like_a_folders_makes_no_file(path):
    with pytest.raises(IsADirectoryError, match=r"'.*model\.safetensors/'$"):
        fr.save(model_of(), f"{path}/")
    assert os.listdir(path.parent) == []


def test_a_missing_file_is_an_error_that_names_the_path(path):
    with pytest.raises(FileNotFoundError, match=r"'.*model\.safetensors'$"):
        fr.load(path)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_an_error_that_names_the_path(path, kept):
    fr.save(model_of(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file \("):
        fr.load(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(500), b"\xff" * 64, b"weights\n" * 99])
def test_a_file_of_another_kind_is_an_error_that_names_the_path(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole safetensors file \("):
        fr.load(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_somebody_else_is_an_error_that_names_the_path(path, metadata):
    save_file({"weight": np.zeros((2, 3), "f4")}, path, metadata)
    with pytest.raises(ValueError, match=r"model\.safetensors: expected format 'fastrnn model 1'"):
        fr.load(path)


@pytest.mark.parametrize(
    "description, reason",
    [
        ('{"class": "Linear", "config": {"in_features": 2, "out_features": 2}}', "expected shape"),
        ('{"class": "Linear", "config": {"in_features": 0, "out_features": 2}}', "in_features"),
        ('{"class": "Linear", "config": {"size": 2}}', "unexpected keyword"),
        ('{"class": "Nothing", "config": {}}', "expected a known Module, got 'Nothing'"),
        ('{"class": "save", "config": {}}', "expected a known Module, got 'save'"),
        ('{"class": ["Linear"], "config": {}}', "unhashable"),
        ('{"config": {}}', "'class'"),
        ("[]", "indices"),
        ("{", "Expecting"),
        pytest.param("[" * 10**5, "recursion", id="deeply nested"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error_that_names_the_path(
    path, description, reason
):
    tensors = {"weight": np.zeros((2, 3), "f4"), "bias": np.zeros(2, "f4")}
    write_tensors(path, tensors, {"format": "fastrnn model 1", "model": description})
    with pytest.raises(
        ValueError, match=r"model\.safetensors: cannot build the model \("
    ) as caught:
        fr.load(path)
    assert reason in str(caught.value)


def test_what_is_no_model_is_refused_before_a_file_is_made(path):
    with pytest.raises(TypeError, match=r"^model: expected a Module, got dict$"):
        fr.save({"weight": np.zeros(3)}, path)
    assert not path.exists()


def test_arrays_of_any_shape_dtype_and_order_come_back(path):
    arrays = {
        "scalar": np.array(3.5),
        "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "empty": np.zeros((0, 3), "f4"),
    }
    write_tensors(path, arrays, {"answer": "42"})
    back, metadata = read_tensors(path)
    assert metadata == {"answer": "42"} and back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype and np.array_equal(back[name], array)


MODELS_OF_NUMPY_NUMBERS = {
    "layer": lambda: fr.LSTM(np.int64(2), np.int32(3), dtype=np.float64),
    "characters": lambda: fr.CharLM(
        "abc", "gru", np.int64(4), np.int64(2), np.int64(3), np.float32(0.5), dtype=np.float32
    ),
    "pairs": lambda: fr.EncoderDecoder(
        np.int64(5),
        np.int64(6),
        "gru",
        np.int64(4),
        np.int64(2),
        np.int64(3),
        np.float32(0.5),
        attention_size=np.int64(7),
        start=np.int64(2),
        stop=np.int64(3),
        dtype=np.dtype("float64"),
    ),
}


@pytest.mark.parametrize("build", MODELS_OF_NUMPY_NUMBERS.values(), ids=MODELS_OF_NUMPY_NUMBERS)
def test_a_model_made_with_numbers_of_numpy_is_saved_like_any_other(path, build):
    model = build()
    fr.save(model, path)
    assert fr.load(path).config() == model.config() == json.loads(json.dumps(model.config()))


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_a_file_keeps_its_permissions(path, mode):
    fr.save(fr.Linear(3, 2), path)
    path.chmod(mode)
    fr.save(fr.Linear(3, 2), path)
    assert path.stat().st_mode & 0o777 == mode


def test_a_configuration_beyond_all_memory_is_an_error_that_names_the_path(path):
    config = {"in_features": 10**9, "out_features": 10**9, "bias": True, "dtype": "float32"}
    model = json.dumps({"class": "Linear", "config": config})
    write_tensors(path, {"weight": np.zeros(1)}, {"format": "fastrnn model 1", "model": model})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: cannot build the model"):
        fr.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with a name on this system")
def test_what_is_no_regular_file_is_left_as_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular file"):
        fr.save(fr.Linear(2, 2), tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(os.name == "nt", reason="no such permissions on this system")
def test_a_new_file_is_at_no_moment_more_readable_than_the_old_one(tmp_path, monkeypatch):
    path, modes, chmod = tmp_path / "model", [], os.chmod
    path.touch(0o600)

    def look(name, mode):
        modes.append(stat.S_IMODE(os.stat(name).st_mode))
        chmod(name, mode)

    monkeypatch.setattr(os, "chmod", look)
    fr.save(fr.Linear(2, 2), path)
    assert modes == [0o600]


def test_a_name_that_only_begins_like_a_temporary_file_stays(tmp_path):
    other = tmp_path / "model.01234567.tmp.bak"
    other.touch()
    remove_temporaries(tmp_path / "model")
    assert other.exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="handles cannot be counted here")
def test_saving_leaves_no_handle_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    fr.save(fr.Linear(2, 2), tmp_path / "model")
    assert len(os.listdir("/proc/self/fd")) == before
