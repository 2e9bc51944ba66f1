"""Module: flat buffers and their views, state_dict, what counts as a change, rebuilding, copies."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.module import Module, aligned_zeros, build, describe, roots


class Affine(Module):
    """A module of our own with two parameters and nothing to compute."""

    def __init__(self, size, dtype="float32"):
        self.size = size
        self._allocate([("scale", (size, 2)), ("shift", (size,))], dtype)
        self._flat[...] = np.arange(3 * size)

    def config(self):
        return {"size": self.size, "dtype": self.dtype.name}


def test_parameters_lie_one_behind_another_in_the_flat_buffer():
    module = Affine(3)
    module._flat[...] = np.arange(9)
    assert module.params["scale"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert module.params["shift"].tolist() == [6, 7, 8]


def test_gradients_are_views_in_the_same_order():
    module = Affine(2)
    module.grads["shift"][...] = 5
    assert module._flat_grad.tolist() == [0, 0, 0, 0, 5, 5]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_buffers_start_at_a_multiple_of_64_bytes(size, dtype):
    array = aligned_zeros(size, dtype)
    assert array.ctypes.data % 64 == 0
    assert array.shape == (size,) and array.dtype == dtype and not array.any()


@pytest.mark.parametrize("dtype", ["int32", "float16", ">f4", "nonsense", complex, None])
def test_other_dtypes_than_the_two_are_refused(dtype):
    with pytest.raises(ValueError, match=r"^dtype: expected 'float32' or 'float64', got "):
        Affine(2, dtype)


def test_assigning_to_a_name_writes_into_the_model():
    module = Affine(2)
    view = module.params["shift"]
    module.params["shift"] = [8, 9]
    assert view.tolist() == [8, 9] and module._flat[4:].tolist() == [8, 9]


def test_an_augmented_assignment_changes_the_model_once():
    module = Affine(2)
    module.params["shift"] += 1
    assert module._flat[4:].tolist() == [5, 6]


def test_a_name_that_is_no_parameter_cannot_be_assigned():
    with pytest.raises(KeyError, match=r"there are scale, shift"):
        Affine(2).params["shfit"] = 0


@pytest.mark.parametrize(
    "change",
    [
        lambda views: views.pop("shift"),
        lambda views: views.update(shift=0),
        lambda views: views.clear(),
        lambda views: views.__delitem__("shift"),
        lambda views: views.setdefault("other", 1),
    ],
)
def test_parameters_cannot_be_added_or_removed(change):
    module = Affine(2)
    with pytest.raises(TypeError, match=r"fixed"):
        change(module.params)
    assert list(module.params) == ["scale", "shift"]


def test_reading_params_marks_the_module_as_exposed():
    module = Affine(2)
    module.grads, module.state_dict(), module.zero_grad()
    assert not module.exposed
    module.params  # noqa: B018 - reading it is what is tested
    assert module.exposed


def test_loading_parameters_counts_as_a_change():
    module = Affine(2)
    before = module._version
    module.load_state_dict(module.state_dict())
    assert module._version > before


def test_zero_grad_clears_every_gradient():
    module = Affine(2)
    module._flat_grad[...] = 3
    module.zero_grad()
    assert not module._flat_grad.any()


def test_state_dict_holds_copies():
    module = Affine(2)
    module.state_dict()["shift"][...] = 100
    assert module._flat.max() < 100


def test_a_state_dict_of_another_module_loads():
    source, target = Affine(2), Affine(2)
    source._flat[...] = -np.arange(6)
    target.load_state_dict(source.state_dict())
    assert (target._flat == source._flat).all()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8"])
def test_values_of_any_real_dtype_load(dtype):
    module = Affine(1)
    module.load_state_dict({"scale": np.array([[1, 2]], dtype), "shift": np.array([3], dtype)})
    assert module._flat.tolist() == [1, 2, 3]


def test_values_that_share_memory_with_the_model_load_as_they_were():
    module = Affine(2)
    views = module.params
    module.load_state_dict({"scale": np.stack([views["shift"]] * 2), "shift": views["scale"][0]})
    assert module._flat.tolist() == [4, 5, 4, 5, 0, 1]


def test_nan_and_infinity_load():
    module = Affine(1)
    module.load_state_dict({"scale": [[np.nan, np.inf]], "shift": [0.0]})
    assert np.array_equal(module._flat, [np.nan, np.inf, 0], equal_nan=True)


GOOD = {"scale": np.zeros((2, 2)), "shift": np.zeros(2)}


@pytest.mark.parametrize(
    "state, error, message",
    [
        ({"scale": GOOD["scale"]}, ValueError, r"^missing key\(s\): shift$"),
        (GOOD | {"b": 1, "a": 1}, ValueError, r"^unexpected key\(s\): a, b$"),
        (
            GOOD | {"shift": np.zeros(3)},
            ValueError,
            r"^shift: expected shape \(2,\), got \(3,\)$",
        ),
        (
            GOOD | {"shift": np.zeros(2, complex)},
            TypeError,
            "^shift: expected real numbers, got complex128$",
        ),
        (GOOD | {"shift": ["a", "b"]}, TypeError, "^shift: expected real numbers, got <U1$"),
        (
            GOOD | {"shift": [1e300, 0]},
            ValueError,
            "^shift: a value is too large for float32$",
        ),
    ],
)
def test_a_wrong_state_dict_is_refused_and_changes_nothing(state, error, message):
    module = Affine(2)
    with pytest.raises(error, match=message):
        module.load_state_dict(state)
    assert module._flat.tolist() == list(range(6)) and module._version == 0


def test_rebinding_moves_values_and_gradients_into_the_given_memory():
    module = Affine(2)
    module._flat_grad[...] = 7
    flat, flat_grad = np.zeros(8, "f4"), np.zeros(8, "f4")
    module._rebind(flat[1:7], flat_grad[1:7])
    assert flat.tolist() == [0, 0, 1, 2, 3, 4, 5, 0] and flat_grad.tolist() == [0, *[7] * 6, 0]
    flat[5] = 50
    assert module.params["shift"].tolist() == [50, 5]


def test_a_dict_of_parameters_taken_before_rebinding_shows_the_new_memory():
    module = Affine(2)
    params, flat = module.params, np.zeros(6, "f4")
    module._rebind(flat, np.zeros(6, "f4"))
    params["shift"] = 9
    assert flat[4:].tolist() == [9, 9]


def test_a_module_is_rebuilt_from_its_description():
    again = build(describe(Affine(4, "float64")))
    assert type(again) is Affine and again.config() == {"size": 4, "dtype": "float64"}


def test_a_class_that_nobody_defined_cannot_be_built():
    with pytest.raises(ValueError, match=r"^class: expected a known Module, got 'Afine'$"):
        build({"class": "Afine", "config": {}})


def test_a_function_of_the_package_is_not_a_class_to_build():
    with pytest.raises(ValueError, match=r"got 'cross_entropy'"):
        build({"class": "cross_entropy", "config": {}})


def test_a_class_cannot_take_the_name_of_one_of_ours():
    with pytest.raises(TypeError, match=r"^Linear: fastrnn has a class of this name"):
        type("Linear", (Module,), {"__module__": "elsewhere"})
    assert build(describe(fr.Linear(2, 3))).out_features == 3


def test_nor_that_of_one_which_nobody_has_asked_for_yet():
    code = "import fastrnn as fr\nclass CharLM(fr.Sequential): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "TypeError: CharLM: fastrnn has a class of this name" in done.stderr


def two_of_a_name(*places):
    return [type("Twice", (Affine,), {"__module__": place}) for place in places]


def test_of_two_classes_of_one_name_the_one_that_was_described_is_built():
    first, second = two_of_a_name("here", "there")
    for kind in first, second:
        assert type(build(describe(kind(2)))) is kind


def test_of_two_classes_of_one_name_none_is_guessed():
    description = describe(two_of_a_name("here", "there")[0](2)) | {"module": "nowhere"}
    with pytest.raises(ValueError, match=r"^class: expected one Module, got 'Twice' of here"):
        build(description)


def test_a_class_that_is_defined_again_counts_from_then_on():
    again = [type("Again", (Affine,), {"__module__": "notebook"}) for _ in range(2)]
    assert type(build(describe(again[0](2)))) is again[1]


class Squares(fr.Linear):
    def __init__(self, n):
        super().__init__(n, n)


class Pair(fr.Sequential):
    def __init__(self, n, hidden):
        super().__init__(fr.GRU(n, hidden), fr.Linear(hidden, n))


class Wider(fr.Linear):
    def __init__(self, in_features, *rest, **options):
        super().__init__(in_features + 1, *rest, **options)


@pytest.mark.parametrize("module", [Squares(3), Pair(3, 4), Wider(2, 3)])
def test_what_could_never_be_loaded_is_not_saved(module, tmp_path):
    name = type(module).__name__
    with pytest.raises(TypeError, match=rf"^{name}: its config\(\) (does not fit|builds other)"):
        fr.save(module, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_config_that_json_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"^model/config/size: expected what JSON can hold, got in"):
        fr.save(Affine(np.int64(3)), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


class Tagged(fr.Linear):
    def __init__(self, *arguments, tag="none", **options):
        super().__init__(*arguments, **options)
        self.tag = tag


def test_a_constructor_of_its_own_is_no_hindrance_if_config_fits(tmp_path):
    fr.save(Tagged(3, 2), tmp_path / "model.safetensors")
    assert type(fr.load(tmp_path / "model.safetensors")) is Tagged


@pytest.mark.parametrize(
    "use", [fr.optim.SGD, lambda m: m.params, lambda m: m.zero_grad(), lambda m: m.state_dict()]
)
def test_a_module_that_never_allocated_says_what_to_do(use):
    bare = type("Layers", (Module,), {"__module__": "elsewhere"})()
    with pytest.raises(TypeError, match=r"^Layers: expected _allocate to be called"):
        use(bare)


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        (fr.LSTM(3, 4), "batch_first", True),
        (fr.LSTM(3, 4), "bidirectional", True),
        (fr.LSTM(3, 4), "hidden_size", 5),
        (fr.RNN(3, 4), "nonlinearity", "relu"),
        (fr.GRU(3, 4), "reset_after", False),
        (fr.Linear(3, 4), "bias", False),
        (fr.Embedding(3, 4), "embedding_dim", 5),
        (fr.AdditiveAttention(3, 4, 5), "query_size", 4),
    ],
)
def test_what_a_layer_is_built_by_cannot_be_changed(layer, name, value):
    before = layer.config()
    with pytest.raises(
        AttributeError,
        match=rf"^{name}: fixed when it is made: expected {getattr(layer, name)}, got {value}",
    ):
        setattr(layer, name, value)
    assert layer.config() == before


@pytest.mark.parametrize(("layer", "name"), [(fr.LSTM(3, 4, 2), "dropout"), (fr.Dropout(0.1), "p")])
def test_dropout_may_be_changed_to_a_probability_only(layer, name):
    setattr(layer, name, 0.25)
    with pytest.raises(ValueError, match=rf"^{name}: expected a probability from 0 to 1, got 7"):
        setattr(layer, name, 7)
    assert getattr(layer, name) == 0.25


def test_a_module_without_config_says_so_when_it_is_described():
    bare = type("Bare", (Module,), {"__module__": "elsewhere"})()
    with pytest.raises(TypeError, match=r"^Bare: no config\(\) is defined"):
        describe(bare)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_is_a_whole_module_of_its_own(duplicate):
    original = fr.Linear(3, 2, seed=0)
    twin = duplicate(original)
    assert (twin._flat == original._flat).all()
    twin.params["bias"] = 100
    assert twin._flat[-1] == 100 and original._flat[-1] != 100


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_a_layer_and_its_model_are_copied_as_one(order):
    model = fr.Sequential(fr.Linear(3, 4), fr.Linear(4, 2))
    both = copy.deepcopy([(model.layers[0], model)[i] for i in order])
    layer, whole = (both[i] for i in order)
    assert whole.layers[0] is layer and whole is not model
    layer._flat[...] = 7
    assert (whole._flat[: layer._flat.size] == 7).all() and not (model._flat == 7).any()


def test_a_layer_copied_by_itself_takes_no_model_along():
    model = fr.Sequential(fr.Linear(3, 4), fr.Linear(4, 400))
    assert copy.deepcopy(model.layers[0])._flat.base.nbytes < 200


def test_roots_of_one_module_is_that_module():
    module = Affine(2)
    assert roots(module) == [module]


def test_roots_keeps_the_order_of_separate_modules():
    modules = [Affine(n) for n in (3, 1, 4, 1, 5)]
    assert roots(modules) == modules


def test_roots_names_shared_parameters_once():
    inner, other = fr.Linear(2, 2), fr.Linear(2, 2)
    model = fr.Sequential(fr.Sequential(inner), fr.Linear(2, 3))
    assert roots([inner, model, other, model.layers[0], other]) == [model, other]


def test_roots_keeps_layers_of_one_container_that_are_named_without_it():
    model = fr.Sequential(fr.Linear(2, 2), fr.Linear(2, 2), fr.Linear(2, 2))
    assert roots(model.layers[1:]) == list(model.layers[1:])


@pytest.mark.parametrize("model", [np.zeros(3), [fr.Linear(1, 1), 5], None])
def test_roots_refuses_what_is_no_module(model):
    with pytest.raises(TypeError, match=r"^model: expected a Module or a sequence of Modules, got"):
        roots(model)


def test_the_representation_shows_the_arguments():
    assert repr(Affine(2)) == "Affine(size=2, dtype='float32')"


@pytest.mark.parametrize("dictionary", ["params", "grads"])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))],
    ids=["deepcopy", "pickle"],
)
def test_a_copy_of_the_parameters_is_a_dict_of_arrays_of_its_own(copied, dictionary):
    module = Affine(2)
    views = getattr(module, dictionary)
    kept = copied(views)
    before = views["shift"].tolist()
    views["shift"] = 7
    assert type(kept) is dict and list(kept) == ["scale", "shift"]
    assert kept["shift"].tolist() == before


def test_a_shallow_copy_of_the_parameters_has_the_views():
    module = Affine(2)
    assert copy.copy(module.params)["shift"] is module.params["shift"]


def test_a_module_that_cannot_be_rebuilt_still_has_a_repr():
    class Own(Module):
        pass

    assert "Own object at" in repr(Own())
