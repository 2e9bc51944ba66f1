"""What is wrong with an argument is said by its name, before anything is computed."""

import numpy as np
import pytest

import fastrnn as fr

IDS = np.zeros((3, 6), int)


def model():
    return fr.Sequential(fr.GRU(5, 4, seed=0), fr.Linear(4, 5, seed=0))


def trainer(**options):
    net = model()
    return fr.Trainer(net, fr.optim.Adam(net, 1e-3), **options)


def attempt(call):
    return lambda: call(trainer(), fr.Batches(IDS, IDS))


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
    "eps": (lambda: fr.gradcheck(model(), IDS, eps=0), "eps: expected a number above 0, got 0"),
}


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
