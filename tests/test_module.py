"""Module: flat buffers and their views, state_dict, what counts as a change, rebuilding, copies."""

import copy
import pickle

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
    assert Module._classes["Linear"] is fr.Linear


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
