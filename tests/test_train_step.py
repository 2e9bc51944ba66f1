"""TrainStep: the numbers of the calls one by one, bit for bit, and nothing changed by bad input."""

import copy
import threading

import numpy as np
import pytest

import fastrnn as fr

T, B, I, V = 7, 3, 5, 6


def lstm_and_linear(dtype="float32"):
    return fr.Sequential(fr.LSTM(I, 9, dtype=dtype, seed=0), fr.Linear(9, V, dtype=dtype, seed=1))


MODELS = {
    "lstm": lstm_and_linear,
    "rnn": lambda: fr.Sequential(fr.RNN(I, 17, seed=0), fr.Linear(17, V, seed=1)),
    "gru in float64": lambda: fr.Sequential(
        fr.GRU(I, 4, dtype="float64", seed=0), fr.Linear(4, V, dtype="float64", seed=1)
    ),
    "two layers, both directions": lambda: fr.Sequential(
        fr.LSTM(I, 5, 2, bidirectional=True, seed=0), fr.Linear(10, V, seed=1)
    ),
    "dropout between layers": lambda: fr.Sequential(
        fr.GRU(I, 8, 3, dropout=0.4, seed=0), fr.Linear(8, V, seed=1)
    ),
    "batch first": lambda: fr.Sequential(
        fr.LSTM(I, 6, 2, batch_first=True, seed=0), fr.Linear(6, V, seed=1)
    ),
    "reset before": lambda: fr.Sequential(
        fr.GRU(I, 6, reset_after=False, bias=False, seed=0), fr.Linear(6, V, bias=False, seed=1)
    ),
    "linear first": lambda: fr.Sequential(
        fr.Linear(I, 4, seed=2), fr.RNN(4, 6, nonlinearity="relu", seed=0), fr.Linear(6, V, seed=1)
    ),
    "two recurrent layers": lambda: fr.Sequential(
        fr.GRU(I, 6, seed=2), fr.LSTM(6, 5, seed=0), fr.Linear(5, V, seed=1)
    ),
    "recurrent layer alone": lambda: fr.LSTM(I, V, seed=0),
}


def batch(dtype, tokens=False, shape=(T, B)):
    rng = np.random.default_rng(0)
    x = rng.integers(0, I, shape) if tokens else rng.standard_normal((*shape, I)).astype(dtype)
    return x, rng.integers(0, V, shape)


def one_by_one(model, optimizer, x, targets, state, loss=fr.cross_entropy, **clip):
    model.zero_grad()
    y, state, tape = model.forward(x, state)
    value, dy = loss(y, targets)
    tape.backward(dy)
    if "norm" in clip:
        fr.clip_grad_norm_(model, clip["norm"])
    if "value" in clip:
        fr.clip_grad_value_(model, clip["value"])
    optimizer.step()
    return value, state


def flatten(state):
    if isinstance(state, tuple):
        return [array for part in state for array in flatten(part)]
    return [] if state is None else [state]


def assert_same_bits(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tokens", [False, True], ids=["dense", "tokens"])
@pytest.mark.parametrize("name", MODELS)
def test_three_steps_are_those_of_single_calls_bit_for_bit(name, tokens, threads):
    if tokens and name == "linear first":
        pytest.skip("Linear takes no tokens")
    ours, theirs = MODELS[name](), MODELS[name]()
    fr.set_num_threads(threads)
    x, targets = batch(ours.dtype, tokens)
    adams = [fr.optim.Adam(model, 0.01) for model in (ours, theirs)]
    step, state, expected_state = fr.TrainStep(ours, adams[0], clip_norm=0.5), None, None
    for _ in range(3):
        loss, state = step(x, targets, state)
        expected, expected_state = one_by_one(
            theirs, adams[1], x, targets, expected_state, norm=0.5
        )
        assert loss == expected
        assert_same_bits(flatten(state), flatten(expected_state))
        assert_same_bits(ours.grads.values(), theirs.grads.values())
        assert_same_bits(ours.params.values(), theirs.params.values())
    assert ours.random_state == theirs.random_state


# A layer and its head that two threads make at the same time: few rows, and a head of some work.
HEADED = {
    "rnn": lambda: fr.Sequential(fr.RNN(65, 20, seed=0), fr.Linear(20, 65, seed=1)),
    "lstm in float64": lambda: fr.Sequential(
        fr.LSTM(65, 12, dtype="float64", seed=0), fr.Linear(12, 65, dtype="float64", seed=1)
    ),
    "gru without biases": lambda: fr.Sequential(
        fr.GRU(65, 13, bias=False, seed=0), fr.Linear(13, 65, bias=False, seed=1)
    ),
    "reset before, batch first": lambda: fr.Sequential(
        fr.GRU(65, 12, reset_after=False, batch_first=True, seed=0), fr.Linear(12, 65, seed=1)
    ),
    "three layers": lambda: fr.Sequential(fr.RNN(65, 12, 3, seed=0), fr.Linear(12, 65, seed=1)),
    "two recurrent layers": lambda: fr.Sequential(
        fr.GRU(65, 10, seed=2), fr.LSTM(10, 12, seed=0), fr.Linear(12, 65, seed=1)
    ),
}


@pytest.mark.parametrize("clip", [{}, {"norm": 0.5}, {"value": 0.01}], ids=str)
@pytest.mark.parametrize(
    "name, tokens",
    [(name, True) for name in HEADED]
    + [(name, False) for name in ("rnn", "three layers", "two recurrent layers")],
)
def test_a_layer_and_its_head_at_the_same_time_are_those_of_single_calls(name, tokens, clip):
    ours, theirs = HEADED[name](), HEADED[name]()
    fr.set_num_threads(2)
    rng = np.random.default_rng(0)
    first = ours.layers[0]
    optimizers = [fr.optim.Adagrad(model, 0.01) for model in (ours, theirs)]
    step = fr.TrainStep(
        ours, optimizers[0], **{f"clip_{kind}": limit for kind, limit in clip.items()}
    )
    state = expected_state = None
    for _ in range(12):
        ids = rng.integers(0, 65, (2, 40))
        x, targets = ids[:, None] if first.batch_first else ids[..., None]
        if not tokens:
            x = np.eye(65, dtype=ours.dtype)[x]
        loss, state = step(x, targets, state)
        assert step._step.headed
        expected, expected_state = one_by_one(
            theirs, optimizers[1], x, targets, expected_state, **clip
        )
        assert loss == expected
        assert_same_bits(flatten(state), flatten(expected_state))
        assert_same_bits(ours.grads.values(), theirs.grads.values())
        assert_same_bits(ours.params.values(), theirs.params.values())


@pytest.mark.parametrize("name", HEADED)
def test_many_steps_of_two_threads_are_those_of_one_thread(name):
    ids = np.random.default_rng(0).integers(0, 65, (300, 2, 40))
    models = HEADED[name](), HEADED[name]()
    for threads, model in enumerate(models, 1):
        fr.set_num_threads(threads)
        shape = (1, 40) if model.layers[0].batch_first else (40, 1)
        step, state = fr.TrainStep(model, fr.optim.Adam(model, 0.01), clip_value=0.1), None
        for x, targets in ids:
            _, state = step(x.reshape(shape), targets.reshape(shape), state)
        assert step._step.headed == (threads == 2)
    assert_same_bits(models[0].params.values(), models[1].params.values())


def test_a_head_that_is_worth_more_threads_is_not_given_to_one():
    fr.set_num_threads(2)
    ours, theirs = (
        fr.Sequential(fr.RNN(65, 100, seed=0), fr.Linear(100, 866, seed=1)) for _ in range(2)
    )
    ids = np.random.default_rng(0).integers(0, 65, (2, 25, 1))
    step = fr.TrainStep(ours, fr.optim.SGD(ours, 0.1))
    loss, _ = step(*ids)
    expected, _ = one_by_one(theirs, fr.optim.SGD(theirs, 0.1), *ids, None)
    assert loss == expected and not step._step.headed
    assert_same_bits(ours.params.values(), theirs.params.values())


def test_a_head_whose_loss_is_not_finite_leaves_the_gradients():
    fr.set_num_threads(2)
    model = HEADED["rnn"]()
    step = fr.TrainStep(model, fr.optim.SGD(model, 0.1))
    ids = np.random.default_rng(0).integers(0, 65, (2, 40, 1))
    step(*ids)
    before = {name: grad.copy() for name, grad in model.grads.items()}
    model.params["1.bias"][3] = np.nan
    with pytest.raises(FloatingPointError, match=r"^the loss is nan$"):
        step(*ids)
    assert_same_bits(model.grads.values(), before.values())


@pytest.mark.parametrize("loss", [fr.mse, fr.bce_with_logits])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_other_losses_are_those_of_single_calls_bit_for_bit(loss, dtype):
    ours, theirs = lstm_and_linear(dtype), lstm_and_linear(dtype)
    x, _ = batch(dtype)
    targets = np.random.default_rng(1).uniform(0, 1, (T, B, V)).astype(dtype)
    step = fr.TrainStep(ours, fr.optim.SGD(ours, 0.1), loss, clip_value=0.01)
    value, _ = step(x, targets)
    expected, _ = one_by_one(theirs, fr.optim.SGD(theirs, 0.1), x, targets, None, loss, value=0.01)
    assert value == expected
    assert_same_bits(ours.params.values(), theirs.params.values())


@pytest.mark.parametrize("cell", [fr.RNN, fr.LSTM, fr.GRU])
@pytest.mark.parametrize("batch_first", [False, True])
def test_last_only_reads_the_final_state(cell, batch_first):
    layers = [cell(I, 9, 2, batch_first=batch_first, seed=0), fr.Linear(9, V, seed=1)]
    model = fr.Sequential(*copy.deepcopy(layers))
    recurrent, linear = layers
    x, _ = batch("float32", shape=(B, T) if batch_first else (T, B))
    targets = np.array([1, 0, 5])
    loss, _ = fr.TrainStep(model, fr.optim.SGD(model, 0.1), last_only=True).gradients(x, targets)

    _, state, tape = recurrent.forward(x)
    h = state[0] if cell is fr.LSTM else state
    logits, _, last = linear.forward(h[-1])
    expected, dlogits = fr.cross_entropy(logits, targets)
    dh = np.zeros_like(h)
    dh[-1], _ = last.backward(dlogits)
    tape.backward(None, (dh, None) if cell is fr.LSTM else dh)
    assert loss == expected
    assert_same_bits(model.grads.values(), [*recurrent.grads.values(), *linear.grads.values()])


def test_last_only_without_a_linear_layer_gives_the_loss_the_state_itself():
    layer = fr.GRU(I, 4, dtype="float64", seed=0)
    step = fr.TrainStep(layer, fr.optim.SGD(layer, 0.1), fr.mse, last_only=True)
    x, _ = batch("float64")
    loss, h = step.gradients(x, np.zeros((B, 4)))
    assert loss == pytest.approx(np.mean(h[0] ** 2))
    np.testing.assert_array_equal(step.output, h[0])


def test_a_sum_is_the_mean_times_the_targets_that_count():
    means, sums = lstm_and_linear("float64"), lstm_and_linear("float64")
    x, targets = batch("float64")
    targets[0, 1] = -100
    mean, _ = fr.TrainStep(means, fr.optim.SGD(means)).gradients(x, targets)
    total, _ = fr.TrainStep(sums, fr.optim.SGD(sums), reduction="sum").gradients(x, targets)
    counted = T * B - 1
    assert total == pytest.approx(mean * counted)
    for name, grad in means.grads.items():
        np.testing.assert_allclose(sums.grads[name], grad * counted, rtol=1e-12, atol=1e-15)


def test_a_list_of_layers_and_an_optimizer_over_them_do():
    layers = [fr.LSTM(I, 9, seed=0), fr.Linear(9, V, seed=1)]
    model = lstm_and_linear()
    x, targets = batch("float32")
    loss, state = fr.TrainStep(layers, fr.optim.Adam(layers))(x, targets)
    expected, _ = fr.TrainStep(model, fr.optim.Adam(model))(x, targets)
    assert loss == expected and len(state) == 2 and state[1] is None
    assert_same_bits(
        [array for layer in layers for array in layer.params.values()], model.params.values()
    )


def test_shapes_threads_and_kinds_of_input_may_change_from_step_to_step():
    ours, theirs = lstm_and_linear(), lstm_and_linear()
    step = fr.TrainStep(ours, fr.optim.SGD(ours, 0.1))
    sgd = fr.optim.SGD(theirs, 0.1)
    for k, shape in enumerate([(T, B), (1, 1), (T, B), (30, 20)]):
        fr.set_num_threads(1 + k % 2)
        x, targets = batch("float32", k == 2, shape)
        assert step(x, targets)[0] == one_by_one(theirs, sgd, x, targets, None)[0]
    assert_same_bits(ours.params.values(), theirs.params.values())


def test_arrays_of_other_strides_and_kinds_of_integers_are_taken():
    model = lstm_and_linear()
    x, targets = batch("float32")
    step = fr.TrainStep(model, fr.optim.SGD(model))
    expected, _ = step.gradients(x, targets)
    wide = np.zeros((T, 2 * B, I), np.float32)
    wide[:, ::2] = x
    odd = np.asfortranarray(targets.astype(np.int32))
    assert step.gradients(wide[:, ::2], odd)[0] == expected
    assert step.gradients(x, targets.tolist())[0] == expected


@pytest.mark.parametrize("masked", ["x", "targets", "h"])
def test_an_array_with_a_mask_is_refused(masked):
    model = lstm_and_linear()
    x, targets = batch("float32")
    step = fr.TrainStep(model, fr.optim.SGD(model))
    _, state = step.gradients(x, targets)
    given = {"x": x, "targets": targets, "h": state[0][0]}
    given[masked] = np.ma.masked_array(given[masked], mask=False)
    message = f"^{masked}: expected an array without a mask, got a MaskedArray"
    with pytest.raises(TypeError, match=message):
        step.gradients(given["x"], given["targets"], ((given["h"], state[0][1]), None))


def test_output_and_norm_are_of_the_last_call():
    model = lstm_and_linear()
    step = fr.TrainStep(model, fr.optim.SGD(model), clip_norm=np.inf)
    assert step.output is None and np.isnan(step.norm)
    x, targets = batch("float32")
    step.gradients(x, targets)
    np.testing.assert_array_equal(step.output, model(x)[0])
    assert step.norm == fr.clip_grad_norm_(model, np.inf)
    with pytest.raises(ValueError):
        step.output[...] = 0


def test_a_layer_that_moved_into_a_model_afterwards_is_still_trained():
    layers = [fr.LSTM(I, 9, seed=0), fr.Linear(9, V, seed=1)]
    step = fr.TrainStep(layers, fr.optim.SGD(layers, 0.1))
    x, targets = batch("float32")
    first, _ = step(x, targets)
    model = fr.Sequential(*layers)
    second, _ = step(x, targets)
    assert second < first and model.grads["1.bias"].any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ([fr.Embedding(3, 4), fr.Linear(4, 2)], {}),
            TypeError,
            "model: layer 0: expected RNN, LSTM, GRU or Linear, got Embedding",
        ),
        (
            lambda: ([fr.RNN(3, 4), fr.Linear(5, 2)], {}),
            ValueError,
            "model: layer 1: expected 4 inputs to follow layer 0, got 5",
        ),
        (
            lambda: ([fr.RNN(3, 4), fr.Linear(4, 2, dtype="float64")], {}),
            ValueError,
            "model: layer 1: expected float32, got float64",
        ),
        (
            lambda: ([fr.RNN(3, 4), fr.RNN(4, 4, batch_first=True)], {}),
            ValueError,
            "model: expected batch_first of all recurrent layers or of none, got both",
        ),
        (lambda: ([], {}), ValueError, "model: expected at least one layer, got none"),
        (lambda: (3, {}), TypeError, "model: expected a Module or a sequence of Modules, got int"),
        (
            lambda: (fr.RNN(3, 4), {"clip_norm": 1, "clip_value": 1}),
            ValueError,
            "clip_norm: expected none beside clip_value, got both",
        ),
        (lambda: (fr.RNN(3, 4), {"clip_norm": -1}), ValueError, "clip_norm: expected 0 or more"),
        (lambda: (fr.RNN(3, 4), {"clip_value": "a"}), TypeError, "clip_value: expected 0 or more"),
        (
            lambda: (fr.RNN(3, 4), {"loss": max}),
            ValueError,
            "loss: expected one of cross_entropy, mse, bce_with_logits, got max",
        ),
        (
            lambda: (fr.RNN(3, 4), {"reduction": "none"}),
            ValueError,
            "reduction: expected 'mean' or 'sum', got 'none'",
        ),
        (
            lambda: (fr.RNN(3, 4, bidirectional=True), {"last_only": True}),
            ValueError,
            "last_only: expected a last recurrent layer that goes one way",
        ),
        (
            lambda: (fr.Linear(3, 4), {"last_only": True}),
            ValueError,
            "last_only: expected a last recurrent layer that goes one way",
        ),
    ],
)
def test_an_impossible_step_is_refused_when_it_is_made(make, error, message):
    model, options = make()
    trainable = model if isinstance(model, (list, fr.Module)) and model else fr.Linear(1, 1)
    optimizer = fr.optim.SGD(trainable)
    with pytest.raises(error, match=f"^{message}"):
        fr.TrainStep(model, optimizer, **options)


def test_an_optimizer_over_other_parameters_is_refused():
    with pytest.raises(ValueError, match=r"^optimizer: expected one over the model's parameters"):
        fr.TrainStep(lstm_and_linear(), fr.optim.SGD(lstm_and_linear()))


TOKENS, TARGETS = np.zeros((T, B), int), np.zeros((T, B), int)


@pytest.mark.parametrize(
    ("x", "targets", "state", "error", "message"),
    [
        (
            np.full((T, B), I),
            TARGETS,
            None,
            ValueError,
            r"x: expected token ids in \[0, 5\), got 5",
        ),
        (np.zeros((T, B)), TARGETS, None, TypeError, "x: expected float32 or integer token ids"),
        (
            np.zeros((T, B, 4), np.float32),
            TARGETS,
            None,
            ValueError,
            r"x: expected shape \(T, B, 5\), got \(7, 3, 4\)",
        ),
        (TOKENS[:0], TARGETS[:0], None, ValueError, "x: expected at least one step of one row"),
        (TOKENS, TARGETS[1:], None, ValueError, r"targets: expected shape \(7, 3\), got \(6, 3\)"),
        (TOKENS, TARGETS * 1.0, None, TypeError, "targets: expected integers, got float64"),
        (
            TOKENS,
            TARGETS + V,
            None,
            ValueError,
            r"targets: expected values in \[0, 6\) or ignore_index -100, got 6 at position 0",
        ),
        (TOKENS, TARGETS - 100, None, ValueError, "targets: expected some that count"),
        (TOKENS, TARGETS, (None,), ValueError, "state: expected a tuple of 2 entries"),
        (
            TOKENS,
            TARGETS,
            ((np.zeros((1, B, 8), np.float32), None), None),
            ValueError,
            r"h: expected shape \(1, 3, 9\), got \(1, 3, 8\)",
        ),
        (TOKENS, TARGETS, (None, 3), ValueError, "state: Linear keeps no state, expected None"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(x, targets, state, error, message):
    model = lstm_and_linear()
    step = fr.TrainStep(model, fr.optim.SGD(model, 0.1))
    step(TOKENS, TARGETS)
    before = copy.deepcopy((model.state_dict(), dict(model.grads)))
    with pytest.raises(error, match=f"^{message}"):
        step(x, targets, state)
    assert_same_bits(model.state_dict().values(), before[0].values())
    assert_same_bits(model.grads.values(), before[1].values())


def test_a_loss_that_is_not_finite_changes_no_parameter():
    model = lstm_and_linear()
    model.params["0.weight_hh_l0"][0, 0] = np.nan
    before = model.state_dict()
    with pytest.raises(FloatingPointError, match=r"^the loss is nan"):
        fr.TrainStep(model, fr.optim.SGD(model))(*batch("float32"))
    assert_same_bits(model.state_dict().values(), before.values())


def test_a_second_thread_inside_one_step_is_refused():
    layer = fr.LSTM(64, 256, seed=0)
    step = fr.TrainStep(layer, fr.optim.SGD(layer), fr.mse)
    x, target = np.zeros((40, 20, 64), np.float32), np.zeros((40, 20, 256), np.float32)
    refused = []

    def calls():
        for _ in range(10):
            try:
                step.gradients(x, target)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=calls) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused and set(refused) == {
        "step: another thread is inside; use a TrainStep for each thread"
    }


def test_a_norm_that_is_not_finite_changes_no_parameter():
    layer = fr.Linear(1, 1, dtype="float64", seed=0)
    before = layer.state_dict()
    step = fr.TrainStep(layer, fr.optim.SGD(layer), fr.mse, clip_norm=1.0)
    with pytest.raises(FloatingPointError, match=r"^the norm of the gradients is inf"):
        step(np.full((1, 1, 1), 1e150), np.full((1, 1, 1), 1e-150))
    assert_same_bits(layer.state_dict().values(), before.values())


def test_dropout_may_change_from_step_to_step():
    one, other = (fr.LSTM(4, V, 2, dropout=0.5, seed=0) for _ in range(2))
    x = np.random.default_rng(0).standard_normal((T, B, 4)).astype("f4")
    targets = np.zeros((T, B), int)
    step = fr.TrainStep(one, fr.optim.SGD(one, 0.0))
    for p in (0.5, 0.0, 0.3, 0.0, 0.5):
        one.dropout = other.dropout = p
        loss, _ = step(x, targets)
        y, _, tape = other.forward(x)
        expected, dy = fr.cross_entropy(y, targets)
        other.zero_grad()
        tape.backward(dy)
        assert loss == expected
        assert all((one.grads[name] == g).all() for name, g in other.grads.items())


@pytest.mark.parametrize("what", ["x", "targets", "state"])
def test_the_output_of_the_last_call_may_go_into_the_next(what):
    model = fr.RNN(4, 4, seed=0)
    rng = np.random.default_rng(0)
    given = {
        "x": rng.standard_normal((T, B, 4)).astype("f4"),
        "targets": rng.standard_normal((T, B, 4)).astype("f4"),
        "state": None,
    }
    step = fr.TrainStep(model, fr.optim.SGD(model, 0.0), fr.mse)
    results = []
    for copied in (False, True):
        step(**given)
        output = step.output[-1:] if what == "state" else step.output
        loss, _ = step(**given | {what: output.copy() if copied else output})
        results.append((loss, model.grads["weight_hh_l0"].copy()))
    assert results[0][0] == results[1][0]
    assert (results[0][1] == results[1][1]).all()


def test_targets_of_64_unsigned_bits_are_taken_if_they_fit():
    model = lstm_and_linear()
    step = fr.TrainStep(model, fr.optim.SGD(model, 0.0))
    x, targets = np.ones((T, B, I), "f4"), np.ones((T, B), np.uint64)
    assert step(x, targets)[0] == step(x, targets.astype(int))[0]
    targets[0, 0] = 2**64 - 100
    with pytest.raises(ValueError, match=r"^targets: expected values in \[0, 6\) .* got 18446"):
        step(x, targets)
