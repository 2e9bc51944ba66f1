"""Additive attention against its equations written row by row, and finite differences."""

import numpy as np
import pytest

import fastrnn as fr


def build(Q=4, E=4, M=5, **options):
    return fr.AdditiveAttention(Q, E, M, **{"dtype": "float64", "seed": 0, **options})


def inputs(T=6, S=6, B=3, Q=4, E=4, dtype=np.float64, seed=1):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((T, B, Q)).astype(dtype), rng.standard_normal((S, B, E)).astype(
        dtype
    )


def row_by_row(layer, query, memory, lengths):
    """Contexts and weights, one query of one row at a time: (E4) to (E7) as written."""
    p = layer.params
    (T, B, _), (S, _, E) = query.shape, memory.shape
    context, weights = np.zeros((T, B, E)), np.zeros((T, B, S))
    for t in range(T):
        for b in range(B):
            n = lengths[b]
            q = p["weight_query"] @ query[t, b] + p["bias"]
            e = [p["weight_score"] @ np.tanh(q + p["weight_memory"] @ a) for a in memory[:n, b]]
            if n:
                weights[t, b, :n] = np.exp(e) / np.exp(e).sum()
            context[t, b] = weights[t, b, :n] @ memory[:n, b]
    return context, weights


@pytest.mark.parametrize("lengths", [None, [6, 1, 3], [0, 6, 0]])
@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 2)], ids=str)
def test_contexts_and_weights_are_those_of_the_equations(shape, lengths):
    layer = build(4, 3, 5)
    T, S = shape
    query, memory = inputs(T, S, Q=4, E=3)
    lengths = None if lengths is None else [min(n, S) for n in lengths]
    context, state, tape = layer.forward((query, memory), lengths=lengths)
    expected, weights = row_by_row(layer, query, memory, lengths or [S] * 3)
    assert state is None
    np.testing.assert_allclose(context, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(tape.weights, weights, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(layer((query, memory), lengths=lengths)[0], context)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [6, 1, 3], [0, 6, 2]])
def test_every_gradient_agrees_with_finite_differences(lengths, batch_first):
    layer = build(batch_first=batch_first)
    x = np.stack([a.swapaxes(0, 1) if batch_first else a for a in inputs()])
    fr.gradcheck(layer, x, lengths=lengths)


def test_gradients_agree_with_finite_differences_when_all_sizes_differ():
    layer = build(4, 3, 5)
    query, memory = inputs(T=2, S=7, Q=4, E=3)
    weights = np.random.default_rng(2).standard_normal((2, 3, 3))
    _, _, tape = layer.forward((query, memory), lengths=[7, 2, 0])
    gradients, _ = tape.backward(weights)
    for array, gradient in zip((query, memory), gradients, strict=True):
        numeric = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            for sign in (1, -1):
                array[place] = kept + sign * 1e-5
                context, _ = layer((query, memory), lengths=[7, 2, 0])
                numeric[place] += sign * (context * weights).sum() / 2e-5
            array[place] = kept
        np.testing.assert_allclose(gradient, numeric, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_number_of_threads_changes_no_bit(n, dtype):
    layer = build(4, 3, 37, dtype=dtype)
    x = inputs(T=9, S=11, B=7, Q=4, E=3, dtype=dtype)  # enough to be worth threads
    before, results = fr.get_num_threads(), []
    try:
        for threads in (1, n):
            fr.set_num_threads(threads)
            layer.zero_grad()
            context, _, tape = layer.forward(x, lengths=[11, 0, 3, 11, 1, 10, 7])
            (dquery, dmemory), _ = tape.backward(np.ones_like(context))
            results.append((context, dquery, dmemory, layer._flat_grad.copy()))
    finally:
        fr.set_num_threads(before)
    for one, several in zip(*results, strict=True):
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("M", [1, 3, 4, 7, 8, 9, 17, 33])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_width_around_a_vector_gives_the_equations(M, dtype):
    layer = build(4, 3, M, dtype=dtype)
    query, memory = inputs(T=2, S=5, Q=4, E=3, dtype=dtype)
    context, _, tape = layer.forward((query, memory), lengths=[5, 2, 0])
    double = build(4, 3, M)
    double.load_state_dict(layer.state_dict())
    as_double = query.astype(np.float64), memory.astype(np.float64)
    expected, _ = row_by_row(double, *as_double, [5, 2, 0])
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(context, expected, rtol=tolerance, atol=tolerance)
    if dtype == "float64":
        stack = build(4, 4, M)
        fr.gradcheck(stack, np.stack(inputs(T=3, S=3)), lengths=[3, 1, 0])
    else:
        _, _, other = double.forward(as_double, lengths=[5, 2, 0])
        ones = np.ones((2, 3, 3))
        ours, theirs = tape.backward(ones.astype(dtype))[0], other.backward(ones)[0]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer._flat_grad, double._flat_grad, rtol=1e-4, atol=1e-5)


def test_float32_is_near_its_float64_twin():
    single, double = build(dtype="float32"), build()
    single.load_state_dict(double.state_dict())
    x = inputs()
    ours = single.forward(tuple(a.astype(np.float32) for a in x))[0]
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, double(x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("padding", [1e6, np.inf, np.nan])
def test_what_stands_beyond_a_rows_end_changes_nothing(padding):
    layer = build()
    query, memory = inputs()
    results = []
    for beyond in 0, padding:
        memory[2:, 0], memory[:, 2] = beyond, -beyond
        layer.zero_grad()
        context, _, tape = layer.forward((query, memory), lengths=[2, 6, 0])
        (dquery, dmemory), _ = tape.backward(np.ones_like(context))
        results.append([context, dquery, dmemory, layer._flat_grad.copy()])
    for clean, padded in zip(*results, strict=True):
        np.testing.assert_array_equal(padded, clean)


def test_padding_is_left_as_it_is():
    layer = build(batch_first=True)
    query, memory = (np.ascontiguousarray(a.swapaxes(0, 1)) for a in inputs())
    before = memory.copy()
    layer.forward((query, memory), lengths=[2, 6, 0])
    np.testing.assert_array_equal(memory, before)


def test_a_reader_gives_one_step_at_a_time_what_a_call_gives_at_once():
    layer = build(4, 3, 5)
    query, memory = inputs(T=4, S=5, Q=4, E=3)
    whole, _ = layer((query, memory), lengths=[5, 2, 1])
    read = layer.reader(memory, [5, 2, 1])
    steps = [read(query[t : t + 1]) for t in range(4)]
    np.testing.assert_allclose(np.concatenate(steps), whole, rtol=1e-12)


def test_it_can_be_saved_and_loaded(tmp_path):
    layer = build(4, 3, 5, batch_first=True)
    fr.save(layer, tmp_path / "a.safetensors")
    loaded = fr.load(tmp_path / "a.safetensors")
    assert loaded.config() == layer.config()
    np.testing.assert_array_equal(loaded._flat, layer._flat)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, m: q, "x: expected a pair"),
        (lambda q, m: (q[..., :2], m), r"query: expected shape \(T, B, 4\), got \(6, 3, 2\)"),
        (lambda q, m: (q, m[0]), r"memory: expected shape \(S, B, 4\), got \(3, 4\)"),
        (lambda q, m: (q, m.astype("f4")), "memory: expected float64, got float32"),
        (lambda q, m: (q[:, :2], m), "query: expected 3 rows like memory, got 2"),
    ],
)
def test_bad_arrays_are_refused_by_name(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()(change(*inputs()))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([1, 2], r"lengths: expected shape \(3,\), got \(2,\)"),
        ([1, 2, 7], "lengths: expected values from 0 to 6, got 1 to 7"),
        ([1, -1, 6], "lengths: expected values from 0 to 6, got -1 to 6"),
        ([1.0, 2, 3], "lengths: expected integers, got float64"),
    ],
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises((TypeError, ValueError), match=message):
        build()(inputs(), lengths=lengths)


def test_a_tape_is_refused_after_the_weights_have_changed():
    layer = build()
    context, _, tape = layer.forward(inputs())
    layer.params["weight_memory"][0, 0] += 1
    with pytest.raises(RuntimeError, match="changed since forward"):
        tape.backward(context)


def test_initial_values_are_uniform_up_to_one_over_the_root_of_what_each_reads():
    layer = fr.AdditiveAttention(64, 16, 100, seed=0)
    reads = {"weight_query": 64, "bias": 64, "weight_memory": 16, "weight_score": 100}
    for name, inputs in reads.items():
        assert 0.9 < np.abs(layer.params[name]).max() * inputs**0.5 <= 1, name


def test_lengths_of_another_shape_are_refused():
    x = np.zeros((4, 3, 2), np.float32)
    with pytest.raises(ValueError, match=r"^lengths: expected shape \(3,\), got \(1,\)"):
        fr.AdditiveAttention(2, 2, 3)((x, x), lengths=[2])
