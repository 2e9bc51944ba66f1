"""Encoder and decoder with attention: against the twin step by step, gradients, decoding."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn import reference as twin
from fastrnn.data import IGNORED

CELLS = ["rnn", "lstm", "gru"]


def build(cell="gru", **options):
    options = {"hidden_size": 5, "attention_size": 4, "dtype": "float64", "seed": 0} | options
    return fr.EncoderDecoder(7, 6, cell, **options)


def ids(S=6, T=6, B=3, seed=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 7, (S, B)), rng.integers(0, 6, (T, B))


def part(model, name):
    """Parameters of one part of a model, under their names in it."""
    start = f"{name}."
    return {k[len(start) :]: v for k, v in model.params.items() if k.startswith(start)}


def slowly(model, cell, source, target, lengths):
    """Logits from the twin's cells and (E1) to (E8), one row and one step at a time."""
    config = model.config()
    L, D = config["num_layers"], 1 + model.bidirectional
    logits = np.zeros((*target.shape, 6))
    for b in range(source.shape[1]):
        x = source[: lengths[b], b : b + 1]
        y = np.concatenate([[model.start], target[:-1, b]])[:, None]
        if config["embedding"]:
            x = part(model, "embed_source")["weight"][x]
            y = part(model, "embed_target")["weight"][y]
        options = {"num_layers": L, "bidirectional": model.bidirectional}
        memory, final, _ = twin.stack_forward(cell, part(model, "encoder"), x, **options)
        if D == 2:
            pair = final if cell == "lstm" else (final,)
            first = []
            for name, value in zip(("bridge", "bridge_c"), pair, strict=False):
                w = part(model, name)
                levels = [np.concatenate([value[2 * k], value[2 * k + 1]], 1) for k in range(L)]
                first.append(np.stack(levels) @ w["weight"].T + w["bias"])
            first[0] = np.tanh(first[0])
            final = tuple(first) if cell == "lstm" else first[0]
        states, _, _ = twin.stack_forward(cell, part(model, "decoder"), y, final, num_layers=L)
        a, combine, output = (part(model, n) for n in ("attention", "combine", "output"))
        for t in range(len(y)):
            s = states[t, 0]
            q = a["weight_query"] @ s + a["bias"]
            hidden = np.tanh(q + memory[:, 0] @ a["weight_memory"].T)
            e = hidden @ a["weight_score"]
            weights = np.exp(e) / np.exp(e).sum()
            context = weights @ memory[:, 0]
            h = np.tanh(combine["weight"] @ np.concatenate([context, s]) + combine["bias"])
            logits[t, b] = output["weight"] @ h + output["bias"]
    return logits


VARIANTS = [
    {},
    {"bidirectional": False},
    {"num_layers": 2},
    {"embedding": 3},
    {"num_layers": 2, "embedding": 3, "bidirectional": False},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_logits_are_those_of_the_twin_row_by_row_and_step_by_step(cell, options):
    model = build(cell, **options)
    source, target = ids(S=5, T=4)
    lengths = [5, 1, 3]
    expected = slowly(model, cell, source, target, lengths)
    logits, state, _ = model.forward((source, target), lengths=lengths)
    assert state is None
    np.testing.assert_allclose(logits, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(model((source, target), lengths=lengths)[0], logits)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_every_gradient_agrees_with_finite_differences(cell, options):
    fr.gradcheck(build(cell, **options), np.stack(ids()), lengths=[6, 1, 4], max_checks=24)


def test_a_target_is_read_only_by_the_steps_after_it():
    model = build("lstm")
    source, target = ids()
    logits, _ = model((source, target))
    target[3] = (target[3] + 1) % 6
    changed, _ = model((source, target))
    np.testing.assert_array_equal(changed[:4], logits[:4])
    assert (changed[4] != logits[4]).any()


def test_padding_of_sources_and_targets_changes_nothing():
    model = build("gru", embedding=3)
    source, target = ids(S=4, T=3)
    lengths = [4, 2, 3]
    logits, _ = model((source, target), lengths=lengths)
    longer = np.full((6, 3), -5)
    longer[:4] = source
    longer[2:, 1] = 99
    padded = np.concatenate([target, np.full((2, 3), IGNORED)])
    more, _ = model((longer, padded), lengths=lengths)
    np.testing.assert_allclose(more[:3], logits, rtol=1e-12)


def test_attention_weights_are_a_distribution_over_each_sources_own_places():
    _, _, tape = build().forward(ids(S=5, T=4), lengths=[5, 1, 3])
    assert tape.attention.shape == (4, 3, 5)
    np.testing.assert_allclose(tape.attention.sum(2), 1)
    assert (tape.attention[:, 1, 1:] == 0).all() and (tape.attention[:, 2, 3:] == 0).all()
    assert (tape.attention[:, 0] > 0).all()


def test_dropout_acts_between_layers_in_training_only():
    model = build("gru", num_layers=2, dropout=0.5)
    x = ids()
    calls = [model(x)[0] for _ in range(2)]
    np.testing.assert_array_equal(*calls)
    first, second = (model.forward(x)[0] for _ in range(2))
    assert (first != second).any() and (first != calls[0]).any()


# --- decoding


@pytest.mark.parametrize("embedding", [0, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_greedy_decoding_writes_what_teacher_forcing_on_it_finds_most_probable(cell, embedding):
    model = build(cell, embedding=embedding, stop=None, seed=1)
    for array in model.params.values():
        array *= 3  # so that what is written changes from step to step
    source, _ = ids(B=4)
    lengths = [6, 2, 1, 4]
    written = model.generate(source, lengths, max_length=8)
    logits, _ = model((source, np.stack(written, axis=1)), lengths=lengths)
    np.testing.assert_array_equal(np.stack(written, axis=1), logits.argmax(2))
    assert len({tuple(row) for row in written}) > 1


def test_a_target_ends_before_its_first_stop_and_others_go_on():
    model = build(stop=None, seed=3)
    source, _ = ids(B=6)
    free = model.generate(source, max_length=9, temperature=1.0, seed=5)
    model.stop = 2
    ended = model.generate(source, max_length=9, temperature=1.0, seed=5)
    assert any(2 in row for row in free) and any(2 not in row for row in free)
    for whole, row in zip(free, ended, strict=True):
        expected = whole[: whole.tolist().index(2)] if 2 in whole else whole
        np.testing.assert_array_equal(row, expected)


def test_top_k_of_one_and_a_tiny_nucleus_are_greedy():
    model, (source, _) = build(stop=None), ids()
    greedy = model.generate(source, max_length=6)
    for options in ({"top_k": 1}, {"top_p": 1e-9}):
        drawn = model.generate(source, max_length=6, temperature=1.0, seed=0, **options)
        np.testing.assert_array_equal(drawn, greedy)


def test_a_seed_decides_what_is_sampled():
    model, (source, _) = build(stop=None), ids()
    first, again, other = (
        np.stack(model.generate(source, max_length=20, temperature=1.0, seed=s)) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_a_length_of_zero_gives_empty_targets():
    rows = build().generate(ids()[0], max_length=0)
    assert [row.shape for row in rows] == [(0,)] * 3


# --- as a model


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_saved_model_is_the_same_model_in_another_process_too(options, tmp_path):
    model = build("lstm", **options)
    fr.save(model, tmp_path / "m.safetensors")
    loaded = fr.load(tmp_path / "m.safetensors")
    assert loaded.config() == model.config()
    x = ids()
    np.testing.assert_array_equal(loaded(x)[0], model(x)[0])


def test_loading_finds_the_class_without_an_import_of_it(tmp_path):
    import subprocess
    import sys

    path = tmp_path / "m.safetensors"
    fr.save(build(), path)
    code = f"import fastrnn; print(type(fastrnn.load({str(path)!r})).__name__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "EncoderDecoder"


def test_it_learns_to_reverse_short_sequences():
    rng = np.random.default_rng(0)
    model = fr.EncoderDecoder(8, 8, "gru", hidden_size=32, seed=0)
    optimizer = fr.optim.Adam(model, lr=5e-3)

    def batch(count):
        lengths = rng.integers(1, 6, count)
        source, target = np.zeros((5, count), int), np.full((6, count), IGNORED)
        for b, n in enumerate(lengths):
            source[:n, b] = rng.integers(2, 8, n)
            target[: n + 1, b] = [*source[:n, b][::-1], 1]
        return source, target, lengths

    for _ in range(400):
        source, target, lengths = batch(32)
        model.zero_grad()
        logits, _, tape = model.forward((source, target), lengths=lengths)
        _, dlogits = fr.cross_entropy(logits, target)
        tape.backward(dlogits)
        fr.clip_grad_norm_(model, 1.0)
        optimizer.step()
    source, target, lengths = batch(200)
    written = model.generate(source, lengths, max_length=8)
    right = [
        row.tolist() == source[:n, b][::-1].tolist()
        for b, (row, n) in enumerate(zip(written, lengths, strict=True))
    ]
    assert np.mean(right) > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s, t: m(s), "x: expected a pair"),
        (lambda m, s, t: m((s.astype(float), t)), "source: expected integers, got float64"),
        (lambda m, s, t: m((s, t[0])), r"target: expected shape \(time, B\)"),
        (lambda m, s, t: m((s, t[:, :2])), "target: expected 3 rows, got 2"),
        (lambda m, s, t: m((s, t + 3)), r"target: expected ids in \[0, 6\) or -100"),
        (lambda m, s, t: m((s, t), lengths=[1, 2]), "lengths: expected"),
        (lambda m, s, t: m((s, t), state=s), "keeps no state"),
        (lambda m, s, t: m.generate(s, temperature=-1), "temperature: .* got -1"),
        (lambda m, s, t: m.generate(s, top_p=0), "top_p: .* got 0"),
        (lambda m, s, t: m.generate(s, max_length=-1), "max_length: .* got -1"),
        (lambda m, s, t: build("elman"), "cell: expected one of rnn, lstm, gru, got 'elman'"),
        (lambda m, s, t: build(stop=6), r"stop: expected an id in \[0, 6\), got 6"),
        (lambda m, s, t: build(start=None), "start: expected an id, got None"),
        (lambda m, s, t: build(embedding=-1), "embedding: .* got -1"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call(build(), *ids())


@pytest.mark.parametrize("embedding", [0, 3])
@pytest.mark.parametrize("wrong", [5, -1, 99])
def test_a_source_id_out_of_range_is_refused_only_where_it_is_read(embedding, wrong):
    model = fr.EncoderDecoder(5, 6, "gru", hidden_size=4, embedding=embedding, seed=0)
    source, target = np.array([[2, 3], [wrong, 1]]), np.array([[2, 2], [1, 1]])
    message = rf"^source: expected ids in \[0, 5\), got {wrong}$"
    for call in (model.forward, model):
        with pytest.raises(ValueError, match=message):
            call((source, target))
    with pytest.raises(ValueError, match=message):
        model.generate(source, [2, 2])
    expected = model((np.array([[2, 3], [0, 1]]), target), lengths=[1, 2])[0]
    assert (model((source, target), lengths=[1, 2])[0] == expected).all()


def test_a_backward_after_a_change_adds_to_no_gradient():
    model = fr.EncoderDecoder(5, 6, "gru", hidden_size=4, seed=0)
    logits, _, tape = model.forward((np.array([[2], [3]]), np.array([[2], [1]])))
    model.params["combine.weight"] = 0
    with pytest.raises(RuntimeError, match="changed since forward"):
        tape.backward(np.ones_like(logits))
    assert not any(gradient.any() for gradient in model.grads.values())


def test_what_is_generated_belongs_to_the_caller_row_by_row():
    rows = fr.EncoderDecoder(5, 4, seed=0).generate(np.zeros((3, 2), int), max_length=4)
    assert all(row.base is None for row in rows)
