"""What is wrong with an argument is said by its name, before anything is computed."""

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.data import Streams, Whole
from fastrnn.tasks import data as tasks

RNG = np.random.default_rng(0)
IDS = np.zeros((3, 6), int)


def model():
    return fr.Sequential(fr.GRU(5, 4, seed=0), fr.Linear(4, 5, seed=0))


def trainer(**options):
    net = model()
    return fr.Trainer(net, fr.optim.Adam(net, 1e-3), **options)


def attempt(call):
    return lambda: call(trainer(), fr.Batches(IDS, IDS))


def over_another_model():
    return fr.optim.Adam(model(), 1e-3)


def plateau():
    return fr.schedules.ReduceOnPlateau(fr.optim.SGD(model(), 0.1))


def window():
    return next(iter(fr.tbptt(np.ones((4, 2, 5), np.float32), 2)))


def generate(*args, **options):
    return fr.CharLM("abc", "gru", 4, seed=0).generate(*args, **options)


def with_schedule_of_another():
    net = model()
    one, other = fr.optim.Adam(net, 1e-3), fr.optim.Adam(net, 1e-3)
    return fr.Trainer(net, one, schedule=fr.schedules.StepLR(other, 3))


LOGITS = np.zeros((2, 3))
TOO_LARGE = np.array([1, 2**64 - 100], np.uint64)  # as an int64 it would be -100
RAGGED = "expected an array, got a list with rows of different length"
CASES = {
    "clip_text": (lambda: trainer(clip="a"), "clip: expected a norm >= 0, got str"),
    "loss_none": (lambda: trainer(loss=None), "loss: expected a callable, got NoneType"),
    "no_model": (lambda: fr.Trainer("m", None), r"model: expected an object with forward\(\)"),
    "no_optimizer": (lambda: fr.Trainer(model(), 3), r"optimizer: expected an object with step"),
    "epochs_text": (attempt(lambda t, d: t.fit(d, epochs="a")), "epochs: .* >= 0, got str"),
    "epochs_nan": (attempt(lambda t, d: t.fit(d, epochs=np.nan)), "epochs: .* >= 0, got nan"),
    "steps_negative": (attempt(lambda t, d: t.fit(d, steps=-1)), "steps: .* >= 0, got -1"),
    "data_array": (attempt(lambda t, d: t.fit(IDS, epochs=1)), "data: expected chunks"),
    "validation": (attempt(lambda t, d: t.fit(d, 3, epochs=1)), "validation: expected chunks"),
    "evaluate": (attempt(lambda t, d: t.evaluate(None)), "data: expected chunks.*NoneType"),
    "batches_x": (lambda: fr.Batches([[1, 2], [3]]), f"x: {RAGGED}"),
    "batches_y": (lambda: fr.Batches(IDS, [[1, 2], [3]]), f"y: {RAGGED}"),
    "batch_size": (lambda: fr.Batches(IDS, batch_size=2.5), "batch_size: expected an integer"),
    "batch_seed": (lambda: fr.Batches(IDS, seed="a"), "seed: expected an integer of 0 or more"),
    "streams_ids": (lambda: Streams(np.ones(9), 2, 2), "ids: expected integers, got float64"),
    "streams_text": (lambda: Streams("text", 2, 2), "ids: expected integers, got <U4"),
    "streams_none": (lambda: Streams(None, 2, 2), "ids: expected integers, got object"),
    "streams_axes": (lambda: Streams(IDS, 2, 2), r"ids: expected one axis, got shape \(3, 6\)"),
    "whole_ids": (lambda: Whole([0.5, 1], 1, 1), "ids: expected integers, got float64"),
    "whole_axes": (lambda: Whole(IDS, 1, 1), r"ids: expected one axis, got shape \(3, 6\)"),
    "pad_none": (lambda: fr.pad_sequences(None), "sequences: expected a sequence of arrays"),
    "pad_ragged": (lambda: fr.pad_sequences([[1, [2, 3]]]), f"sequence 0: {RAGGED}"),
    "pad_value": (lambda: fr.pad_sequences([[1]], value="a"), "value: expected a number, got 'a'"),
    "gamma": (
        lambda: fr.schedules.StepLR(fr.optim.SGD(model(), 0.1), 3, gamma="a"),
        "gamma: expected a number above 0, got 'a'",
    ),
    "gain": (lambda: fr.init.orthogonal_(model(), gain="a"), "gain: .* above 0, got str"),
    "init_seed": (lambda: fr.init.uniform_(model(), seed="a"), "seed: expected None, an integer"),
    "layer_seed": (lambda: fr.GRU(2, 3, seed=-1), "seed: expected None, an integer >= 0 or"),
    "norm": (lambda: fr.clip_grad_norm_(model(), None), "max_norm: expected 0 or more, got None"),
    "limit": (lambda: fr.clip_grad_value_(model(), "a"), "limit: expected 0 or more, got str"),
    "p": (lambda: fr.Dropout("a"), "p: expected a probability from 0 to 1, got str"),
    "logits": (lambda: fr.cross_entropy([[1.0, 2.0], [3.0]], [0, 1]), f"logits: {RAGGED}"),
    "targets": (lambda: fr.cross_entropy(np.ones((2, 3)), [[0], [1, 2]]), f"targets: {RAGGED}"),
    "mse": (lambda: fr.mse(np.ones(3), [[1], [1, 2]]), f"target: {RAGGED}"),
    "linear": (lambda: fr.Linear(3, 2)([[1, 2], [3]]), f"x: {RAGGED}"),
    "linear_huge": (lambda: fr.Linear(2**40, 2**40), "weight: shape .* is larger than any memory"),
    "embedding": (lambda: fr.Embedding(3, 2)([[1, 2], [0]]), f"x: {RAGGED}"),
    "mapping": (lambda: model().load_state_dict(None), "mapping: expected parameters by name"),
    "tbptt": (lambda: fr.tbptt([[[1, 2], [3]]], 1), f"data: {RAGGED}"),
    "embedding_width": (lambda: fr.EncoderDecoder(3, 3, embedding="a"), "embedding: .* got str"),
    "start": (lambda: fr.EncoderDecoder(3, 3, start="a"), "start: expected an integer .* got str"),
    "temperature": (
        lambda: fr.EncoderDecoder(3, 3, "gru", 4).generate(IDS, temperature="a"),
        "temperature: expected a number >= 0, got str",
    ),
    "ignored_huge": (
        lambda: fr.cross_entropy(LOGITS, np.array([0, 1]), 2**70),
        "ignore_index: expected an integer of 64 bits, got 1180591620717411303424",
    ),
    "ignored_text": (
        lambda: fr.cross_entropy(LOGITS, np.array([0, 1]), "a"),
        "ignore_index: expected an integer, got str",
    ),
    "ignored_fraction": (
        lambda: fr.cross_entropy(LOGITS, np.array([0, 1]), 1.5),
        "ignore_index: expected an integer, got float",
    ),
    "targets_uint64": (
        lambda: fr.cross_entropy(LOGITS, TOO_LARGE),
        r"targets: expected values in \[0, 3\) .* got 18446744073709551516 at position 1",
    ),
    "accuracy_targets": (
        lambda: fr.accuracy(LOGITS, [0.5, 1]),
        "targets: expected integers, got float64",
    ),
    "accuracy_logits": (lambda: fr.accuracy("a", 0), "logits: expected real numbers, got <U1"),
    "accuracy_none": (lambda: fr.accuracy(np.ones((2, 0)), [0, 0]), "logits: .* one class"),
    "accuracy_ignored": (lambda: fr.accuracy(LOGITS, [0, 1], "a"), "ignore_index: .* got str"),
    "callbacks": (lambda: trainer(callbacks=3), "callbacks: expected Callback .* got int"),
    "callback": (lambda: trainer(callbacks=[None]), "callbacks: expected Callback .* got NoneType"),
    "callback_class": (
        lambda: trainer(callbacks=[fr.callbacks.EarlyStopping]),
        "callbacks: expected Callback objects, got the class EarlyStopping",
    ),
    "metrics": (lambda: trainer(metrics=3), "metrics: expected callables by name .* got int"),
    "metrics_text": (lambda: trainer(metrics="a"), "metrics: expected callables .* got str"),
    "schedule": (lambda: trainer(schedule="a"), "schedule: expected one of .*schedules, got str"),
    "schedule_over": (with_schedule_of_another, "schedule: expected one over the trainer's opt"),
    "optimizer_over": (
        lambda: fr.Trainer(model(), over_another_model()),
        "optimizer: expected one over parameters of the model, got Adam over those of another",
    ),
    "optimizer_class": (
        lambda: fr.Trainer(model(), fr.optim.Adam),
        r"optimizer: expected an object with step\(\), got the class Adam",
    ),
    "trainer_none": (lambda: trainer().load_state_dict(None), "trainer: .* got NoneType"),
    "trainer_empty": (
        lambda: trainer().load_state_dict({}),
        r"trainer: missing key\(s\): optimizer, progress, state",
    ),
    "optimizer_none": (
        lambda: over_another_model().load_state_dict(None),
        r"optimizer: expected what state_dict\(\) returned, got NoneType",
    ),
    "optimizer_empty": (
        lambda: over_another_model().load_state_dict({}),
        r"optimizer: missing key\(s\): class",
    ),
    "optimizer_partly": (
        lambda: over_another_model().load_state_dict({"class": "Adam", "steps": 0}),
        r"optimizer: missing key\(s\): options, arrays",
    ),
    "optimizer_options": (
        lambda: over_another_model().load_state_dict(
            {"class": "Adam", "steps": 0, "options": {}, "arrays": {}}
        ),
        r"optimizer: options: missing key\(s\): lr, betas, eps, weight_decay",
    ),
    "schedule_none": (lambda: plateau().load_state_dict(None), "schedule: .* got NoneType"),
    "schedule_empty": (
        lambda: plateau().load_state_dict({}),
        r"schedule: missing key\(s\): class",
    ),
    "schedule_text": (
        lambda: plateau().load_state_dict(plateau().state_dict() | {"best": "a"}),
        "best: expected a number, got str",
    ),
    "stopping_empty": (
        lambda: fr.callbacks.EarlyStopping().load_state_dict({}),
        r"EarlyStopping: missing key\(s\): best, waited",
    ),
    "patience": (lambda: fr.callbacks.EarlyStopping("a"), "patience: expected an integer .* str"),
    "random_state": (
        lambda: fr.Dropout(0.5).load_random_state(None),
        r"random_state: expected 2 integers from 0 to 2\*\*64 - 1, got None",
    ),
    "plateau_text": (lambda: plateau().step("a"), "loss: expected a number, got str"),
    "plateau_array": (lambda: plateau().step(np.ones(2)), "loss: expected a number, got ndarray"),
    "window": (
        lambda: window().forward(None),
        r"model: expected an object with forward\(\), got NoneType",
    ),
    "prime": (lambda: generate(3), "prime: expected a str, got int"),
    "length": (lambda: generate(length="a"), "length: expected an integer >= 0, got str"),
    "length_half": (lambda: generate(length=2.5), "length: expected an integer >= 0, got float"),
    "generate_seed": (lambda: generate("a", 2, seed="a"), "seed: expected None, an integer"),
    "vocabulary": (lambda: fr.CharLM(3), "vocabulary: expected a str, got int"),
    "charlm_embedding": (lambda: fr.CharLM("abc", embedding=-1), "embedding: .* >= 0, got -1"),
    "charlm_cell": (lambda: fr.CharLM("abc", ["lstm"]), r"cell: expected one of .* \['lstm'\]"),
    "stream": (lambda: fr.Stream(fr.Linear(3, 2)), "layer: expected an RNN, LSTM or GRU, got Lin"),
    "memory_none": (lambda: fr.AdditiveAttention(2, 3, 4).reader(None), "memory: expected 3 axes"),
    "adding_T": (lambda: tasks.adding(RNG, 1, 3), "T: expected an integer >= 2, got 1"),
    "copying_T": (lambda: tasks.copying(RNG, 0, 3), "T: expected an integer >= 1, got 0"),
    "copying_B": (lambda: tasks.copying(RNG, 2, "a"), "B: expected an integer >= 0, got str"),
    "distance": (lambda: tasks.recall(RNG, 6, 2, 7), "distance: expected 1 to T = 6, got 7"),
    "distance_0": (lambda: tasks.recall(RNG, 6, 2, 0), "distance: expected an integer >= 1, got 0"),
    "symbols": (lambda: tasks.recall(RNG, 6, 2, 1, 0), "symbols: expected an integer >= 1, got 0"),
    "bits": (lambda: tasks.binary_sums(RNG, 63, 1), "bits: expected 1 to 62, got 63"),
    "bound": (lambda: fr.init.uniform_(model(), "a"), "bound: expected a number above 0, got str"),
    "input_std": (lambda: fr.init.identity_(model(), input_std="a"), "input_std: .* got str"),
    "step_loss": (
        lambda: fr.TrainStep(model(), fr.optim.SGD(model()), []),
        "loss: expected one of .* got list|optimizer: expected one over",
    ),
    "nonlinearity": (
        lambda: fr.RNN(2, 3, nonlinearity=np.ones(2)),
        "nonlinearity: expected one of",
    ),
    "out_order": (
        lambda: (
            fr.RNN(2, 3).stream(2).step(np.ones((2, 2), "f4"), np.ones((2, 3), "f4", order="F"))
        ),
        r"out: expected a writeable C-contiguous array .* \(2, 3\), not in C order",
    ),
    "out_class": (
        lambda: fr.RNN(2, 3).stream().step(np.ones((1, 2), "f4"), np.ma.ones((1, 3), "f4")),
        "out: expected a writeable C-contiguous array .* got a MaskedArray of float32",
    ),
    "loss_of_none": (
        lambda: trainer(loss=lambda y, t: (None, y)).evaluate(fr.Batches(IDS, IDS)),
        "loss: expected a number, got NoneType",
    ),
    "eps": (lambda: fr.gradcheck(model(), IDS, eps=0), "eps: expected a number above 0, got 0"),
}

for name, options in (
    ("Constant", ()),
    ("StepLR", (3,)),
    ("CosineWithWarmup", (3,)),
    ("ReduceOnPlateau", ()),
):
    CASES[f"{name}_over_none"] = (
        lambda name=name, options=options: getattr(fr.schedules, name)(None, *options),
        "optimizer: expected an optimizer of fastrnn.optim, got NoneType",
    )
for seed in ("a", 2.5, -1, RNG):
    CASES[f"streams_seed_{seed}"] = (
        lambda seed=seed: Streams(np.arange(9), 2, 2, seed),
        "seed: expected None or an integer of 0 or more, got ",
    )
for seed in ("a", 2.5, -1):
    for name, build in (
        ("CharLM", lambda seed: fr.CharLM("abc", "gru", 4, seed=seed)),
        ("EncoderDecoder", lambda seed: fr.EncoderDecoder(3, 3, "gru", 4, seed=seed)),
    ):
        CASES[f"{name}_seed_{seed}"] = (
            lambda build=build, seed=seed: build(seed),
            f"seed: expected None, an integer >= 0 or a numpy Generator, got {seed!r}",
        )


@pytest.mark.parametrize("kind", CASES)
def test_the_message_names_the_argument(kind):
    call, message = CASES[kind]
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


def test_a_fit_that_is_refused_changes_nothing():
    t = trainer()
    before = t.model.state_dict()
    with pytest.raises(TypeError, match=r"^validation: "):
        t.fit(fr.Batches(IDS, IDS), 3, epochs=1)
    assert t.progress.step == 0
    assert all(np.array_equal(before[name], now) for name, now in t.model.state_dict().items())


def test_no_callbacks_and_no_metrics_may_be_written_as_none():
    t = trainer(callbacks=None, metrics=None)
    assert t.fit(fr.Batches(IDS, IDS), epochs=1)[0]["step"] == 1


@pytest.mark.parametrize("part", ["a layer", "more than the model"])
def test_an_optimizer_may_be_over_a_part_of_the_model_or_over_more(part):
    net = model()
    over = net.layers[1] if part == "a layer" else [net, model()]
    before = net.state_dict()
    fr.Trainer(net, fr.optim.SGD(over, 0.1)).fit(fr.Batches(IDS, IDS), steps=1)
    moved = {name for name, now in net.state_dict().items() if (now != before[name]).any()}
    assert "1.bias" in moved
    assert ("0.weight_hh_l0" in moved) == (part != "a layer")


REFUSED = [
    ("random", [1], "random_state: expected 2 integers"),
    ("schedule", {"class": "StepLR"}, r"schedule: missing key\(s\): steps, base_lr"),
    ("progress", {"a": 1}, "trainer: progress: .* unexpected keyword argument 'a'"),
    ("progress", {"position": "a"}, "progress: position: expected an integer >= 0, got str"),
    ("progress", {"best": None}, "progress: best: expected a number, got NoneType"),
    ("progress", {"epoch_metrics": {"a": "b"}}, "progress: epoch_metrics: a: .* got str"),
    ("state", "junk", "state: expected arrays in tuples, got str"),
    ("state", (np.zeros(3), ["junk"]), "state: expected arrays in tuples, got str"),
    ("history", 5, "history: expected rows in a list, got int"),
    ("history", [{"epoch": 1}, 5], "history: row 1: expected what state_dict"),
    ("callbacks", 5, r"callbacks: expected what state_dict\(\) returned, got int"),
    ("callbacks", {"EarlyStopping": {}}, r"EarlyStopping: missing key\(s\): best, waited"),
    (
        "callbacks",
        {"EarlyStopping": {"best": "a", "waited": 0}},
        "EarlyStopping: best: expected a number, got str",
    ),
    (
        "callbacks",
        {"EarlyStopping": {"best": 1, "waited": 3}, "EarlyStopping.1": {"best": 1, "waited": 0.5}},
        "EarlyStopping: waited: expected an integer >= 0, got float",
    ),
]


@pytest.mark.parametrize(("part", "wrong", "message"), REFUSED)
def test_a_training_state_that_is_refused_changes_nothing(part, wrong, message):
    def make():
        net = fr.Sequential(fr.GRU(5, 4, seed=0), fr.Dropout(0.5, seed=0), fr.Linear(4, 5, seed=0))
        adam = fr.optim.Adam(net, 1e-3)
        stopping = [fr.callbacks.EarlyStopping(), fr.callbacks.EarlyStopping()]
        return fr.Trainer(net, adam, schedule=fr.schedules.StepLR(adam, 1), callbacks=stopping)

    first, second = make(), make()
    first.fit(fr.Batches(IDS, IDS), epochs=2)
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        second.load_state_dict(first.state_dict() | {part: wrong})
    np.testing.assert_equal(second.state_dict(), make().state_dict())


def test_a_training_state_is_not_changed_by_who_goes_on_from_it():
    data = fr.Batches(IDS, IDS, batch_size=2)  # 3 chunks an epoch
    first, second = (
        trainer(metrics={"one": lambda y, target: 1.0}, train_metrics=True) for _ in range(2)
    )
    first.fit(data, steps=1)
    saved, again = first.state_dict(), first.state_dict()
    second.load_state_dict(saved)
    second.fit(data, steps=2)
    np.testing.assert_equal(saved, again)


@pytest.mark.parametrize("kind", ["CharLM", "EncoderDecoder"])
def test_a_generator_gives_the_layers_different_weights_and_the_next_model_others(kind):
    build = {
        "CharLM": lambda seed: fr.CharLM("abcd", "rnn", 4, seed=seed),
        "EncoderDecoder": lambda seed: fr.EncoderDecoder(4, 4, "rnn", 4, seed=seed),
    }[kind]
    rng = np.random.default_rng(0)
    first, second = build(rng), build(rng)
    again = build(np.random.default_rng(0))
    assert np.array_equal(first._flat, again._flat)
    assert not np.array_equal(first._flat, second._flat)
