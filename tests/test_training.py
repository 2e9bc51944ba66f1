"""The training loop: what it learns, what it reports, and when it ends."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.data import IGNORED, Streams, Whole
from fastrnn.resume import load_training, save_training
from fastrnn.training import Callback, Trainer

sys.path.insert(0, str(Path(__file__).parent))
from trainings import (
    IDS,
    LAYERS,
    Chunks,
    assert_same,
    comparable,
    make,
    streams,
    through_a_file,
    whole,
)

# What it does


@pytest.mark.parametrize("cell", LAYERS)
def test_a_pattern_is_learnt(cell):
    model = fr.Sequential(LAYERS[cell](3, 12, seed=0), fr.Linear(12, 3, seed=1))
    trainer = Trainer(model, fr.optim.Adam(model, 0.02), clip=5)
    data = Streams(np.tile([0, 1, 2, 2], 100), batch_size=4, seq_len=8)  # 2 is followed by 2 or 0
    rows = trainer.fit(data, epochs=20)
    assert rows[-1]["train_loss"] < 0.1 < rows[0]["train_loss"]


def test_a_row_says_what_happened_in_its_epoch():
    trainer = make()
    rows = trainer.fit(streams(), whole(), epochs=3)
    assert [(r["epoch"], r["step"]) for r in rows] == [(1, 20), (2, 40), (3, 60)]
    assert rows[-1]["val_loss"] == trainer.evaluate(whole())["loss"]
    assert [r["best"] for r in rows] == [
        r["val_loss"] == min(s["val_loss"] for s in rows[: k + 1]) for k, r in enumerate(rows)
    ]
    assert trainer.progress.best == min(r["val_loss"] for r in rows)


def test_the_training_loss_of_a_row_is_the_mean_over_the_steps_of_its_epoch():
    losses = []

    class Keep(Callback):
        def on_step(self, trainer, loss):
            losses.append(loss)

    rows = make(callbacks=[Keep()]).fit(streams(), epochs=2)
    assert [r["train_loss"] for r in rows] == pytest.approx(
        [np.mean(losses[:20]), np.mean(losses[20:])]
    )


def test_without_validation_the_training_loss_decides_what_is_best():
    rows = make().fit(streams(), epochs=2)
    assert (rows[0]["val_loss"], rows[0]["best"]) == (None, True)


def test_the_state_is_carried_across_chunks_and_zero_at_the_start_of_an_epoch():
    seen = []

    class Spy(Callback):
        def on_step(self, trainer, loss):
            seen.append(trainer.state[0][0].copy())

    trainer = make(callbacks=[Spy()])
    trainer.optimizer.lr = 0.0  # the weights stay, so the states can be computed again
    data = streams()
    trainer.fit(data, epochs=2)
    for epoch in range(2):
        state = None
        for k, (x, _) in enumerate(data.epoch(epoch)):
            _, state = trainer.model(x, state)
            np.testing.assert_allclose(seen[20 * epoch + k], state[0][0], rtol=1e-5, atol=1e-6)


def test_the_validation_loss_is_the_mean_over_all_characters_with_carried_state():
    trainer = make()
    logits, _ = trainer.model(IDS[:-1].reshape(-1, 1))
    expected, _ = fr.cross_entropy(logits, IDS[1:].reshape(-1, 1))
    assert trainer.evaluate(Whole(IDS, 1, 7))["loss"] == pytest.approx(expected, rel=1e-5)


def test_evaluating_changes_nothing():
    one, other = make(), make()
    one.evaluate(whole())
    assert_same(one, other)


def test_the_gradient_that_the_optimizer_sees_is_no_longer_than_the_clip():
    trainer = make()
    trainer.clip = 0.01
    norms = []
    step = trainer.optimizer.step

    def spy():
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in trainer.model.grads.values())))
        step()

    trainer.optimizer.step = spy
    trainer.fit(streams(), steps=10)
    assert max(norms) <= 0.01 * (1 + 1e-5)


def test_without_clipping_the_gradient_is_left_alone():
    clipped, free = make(), make()
    clipped.clip, free.clip = 1e9, 0.0
    clipped.fit(streams(), steps=5)
    free.fit(streams(), steps=5)
    assert_same(clipped, free)


@pytest.mark.parametrize("clip", [-1.0, float("nan")])
def test_a_negative_clip_is_refused(clip):
    with pytest.raises(ValueError, match="clip: expected a norm >= 0"):
        Trainer(make().model, make().optimizer, clip=clip)


# Batches, lengths, metrics, prediction


def ragged(n=30, cell=None):
    rng = np.random.default_rng(3)
    x, lengths = fr.pad_sequences([rng.integers(0, 5, 1 + i % 7) for i in range(n)])
    return fr.Batches(x, (x + 1) % 5, batch_size=8, seed=5, lengths=lengths)


def test_ragged_batches_are_learnt_and_their_padding_is_not_counted():
    trainer = make(metrics=[fr.accuracy])
    rows = trainer.fit(ragged(), ragged(), epochs=60)
    assert rows[-1]["val_accuracy"] == 1.0
    short = fr.Batches(ragged().x[:1], ragged().y[:1], 30)  # every sequence has a first step
    assert trainer.evaluate(short)["accuracy"] == 1.0


def test_what_stands_in_the_padding_changes_nothing():
    one, other = make(), make()
    data = ragged()
    data.x = np.where(np.arange(len(data.x))[:, None] < data.lengths, data.x, 999)
    one.fit(ragged(), epochs=2)
    other.fit(data, epochs=2)
    assert_same(one, other)


def test_one_target_for_each_sample_and_a_loss_of_ones_own():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    model = fr.Linear(3, 2, dtype="float64", seed=0)
    trainer = Trainer(model, fr.optim.Adam(model, 0.1), fr.mse)
    weight = rng.standard_normal((3, 2))
    trainer.fit(fr.Batches(x, x @ weight, 10, batch_first=True), epochs=100)
    np.testing.assert_allclose(model.params["weight"], weight.T, atol=1e-3)


def test_metrics_are_means_over_all_counted_targets_of_batches_of_any_size():
    trainer = make(metrics={"right": fr.accuracy})
    data = ragged()
    y, _ = trainer.model(data.x, lengths=data.lengths)
    expected = fr.accuracy(y, data.y)
    assert trainer.evaluate(data)["right"] == pytest.approx(expected, rel=1e-12)
    assert trainer.evaluate(data)["loss"] == pytest.approx(fr.cross_entropy(y, data.y)[0], rel=1e-5)


def test_metrics_of_the_training_data_are_reported_if_asked_for_and_are_those_of_the_steps():
    trainer = make(metrics=[fr.accuracy], train_metrics=True)
    trainer.optimizer.lr = 0.0  # so that they can be measured again
    (row,) = trainer.fit(ragged(), epochs=1)
    assert row["train_accuracy"] == pytest.approx(trainer.evaluate(ragged())["accuracy"])
    assert "val_accuracy" not in row
    assert "train_accuracy" not in make(metrics=[fr.accuracy]).fit(ragged(), epochs=1)[0]


def test_metrics_of_an_epoch_survive_a_stop_within_it(tmp_path):
    options = {"metrics": [fr.accuracy], "train_metrics": True}
    unbroken = make(**options)
    unbroken.fit(ragged(), epochs=2)
    first = make(**options)
    first.fit(ragged(), steps=6)
    second = through_a_file(first, tmp_path / "t.safetensors", **options)
    second.fit(ragged(), epochs=2)
    assert_same(unbroken, second)
    assert comparable(unbroken.history) == comparable(second.history)


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"loss": fr.accuracy}, ValueError, "metrics: expected another name than 'loss'"),
        ([fr.accuracy, fr.accuracy], ValueError, "different names, got 'accuracy' twice"),
        ({"accuracy": 1}, TypeError, "metrics: expected callables, got accuracy: int"),
    ],
)
def test_metrics_that_cannot_be_reported_are_refused(metrics, error, message):
    with pytest.raises(error, match=message):
        make(metrics=metrics)


def test_predictions_of_an_array_are_the_outputs_of_the_model():
    trainer, data = make(), ragged()
    y, _ = trainer.model(data.x, lengths=data.lengths)
    assert np.array_equal(trainer.predict(data.x, data.lengths), y)


def test_predictions_of_batches_come_in_the_order_of_the_data():
    trainer, data = make(), ragged()
    y, _ = trainer.model(data.x, lengths=data.lengths)
    batches = fr.Batches(data.x, None, 7, shuffle=False, lengths=data.lengths)
    np.testing.assert_allclose(np.concatenate(trainer.predict(batches), axis=1), y, atol=1e-6)


def test_predictions_of_streams_carry_the_state():
    trainer = make()
    y, _ = trainer.model(IDS[:-1].reshape(-1, 1))
    chunks = trainer.predict(Whole(IDS, 1, 7))
    np.testing.assert_allclose(np.concatenate(chunks), y, atol=1e-5)


def test_an_encoder_decoder_learns_from_ragged_pairs_and_goes_on_bit_for_bit(tmp_path):
    rng = np.random.default_rng(4)
    words = [rng.integers(2, 8, 1 + i % 3) for i in range(24)]
    source, lengths = fr.pad_sequences(words)
    target, _ = fr.pad_sequences([np.append(w[::-1], 1) for w in words], value=IGNORED)
    data = fr.Batches((source, target), target, 8, lengths=lengths)

    def trainer_of(model):
        return Trainer(model, fr.optim.Adam(model, 0.02), clip=1.0, metrics=[fr.accuracy])

    unbroken = trainer_of(fr.EncoderDecoder(8, 8, "gru", hidden_size=12, seed=0))
    unbroken.fit(data, data, epochs=60)
    assert unbroken.history[-1]["val_accuracy"] > 0.9
    first = trainer_of(fr.EncoderDecoder(8, 8, "gru", hidden_size=12, seed=0))
    first.fit(data, data, steps=100)
    save_training(first, tmp_path / "t.safetensors")
    saved = load_training(tmp_path / "t.safetensors")
    second = trainer_of(saved.model)
    second.load_state_dict(saved.trainer)
    second.fit(data, data, epochs=60)
    assert_same(unbroken, second)


@pytest.mark.parametrize("stop", [1, 20, 27])
def test_dropout_draws_the_same_masks_in_a_resumed_training(stop, tmp_path):
    def trainer_of(model):
        return Trainer(model, fr.optim.Adam(model, 0.01))

    def model():
        recurrent = fr.LSTM(5, 6, 2, dropout=0.3, seed=1)
        return fr.Sequential(recurrent, fr.Dropout(0.2, seed=3), fr.Linear(6, 5, seed=2))

    unbroken, first = trainer_of(model()), trainer_of(model())
    unbroken.fit(streams(), whole(), steps=54)
    first.fit(streams(), whole(), steps=stop)
    save_training(first, tmp_path / "t.safetensors")
    saved = load_training(tmp_path / "t.safetensors")
    second = trainer_of(saved.model)
    second.load_state_dict(saved.trainer)
    second.fit(streams(), whole(), steps=54)
    assert_same(unbroken, second)


def test_lengths_beside_data_that_has_its_own_are_refused():
    with pytest.raises(ValueError, match="lengths: expected None"):
        make().predict(ragged(), [1, 2])


# Limits


def test_the_first_limit_that_is_reached_ends_it():
    trainer = make()
    trainer.fit(streams(), epochs=100, steps=27)
    assert (trainer.progress.step, trainer.progress.epoch, trainer.progress.position) == (27, 1, 7)


def test_a_limit_in_the_middle_of_an_epoch_reports_the_part_that_was_done():
    rows = make().fit(streams(), whole(), steps=27)
    assert [(r["epoch"], r["step"]) for r in rows] == [(1, 20), (2, 27)]
    assert rows[-1]["val_loss"] is not None


def test_a_limit_at_the_end_of_an_epoch_reports_it_once():
    assert [r["step"] for r in make().fit(streams(), steps=40)] == [20, 40]


def test_a_limit_of_time_ends_it_soon():
    trainer = make()
    trainer.fit(streams(), seconds=0.05)
    assert trainer.progress.step >= 1
    assert 0.05 <= trainer.progress.seconds < 5


def test_limits_count_from_the_start_of_the_training():
    trainer = make()
    trainer.fit(streams(), epochs=1)
    assert trainer.fit(streams(), epochs=1) == []
    assert [r["epoch"] for r in trainer.fit(streams(), epochs=3)] == [2, 3]


def test_no_limit_at_all_is_refused():
    with pytest.raises(ValueError, match="expected a limit of epochs, steps or seconds"):
        make().fit(streams())


def test_data_without_chunks_or_without_targets_that_count_is_refused():
    trainer = make()
    with pytest.raises(ValueError, match="data: expected at least one chunk, got none"):
        trainer.fit(Chunks(), steps=1)
    x = np.zeros((2, 1), np.int64)
    with pytest.raises(ValueError, match="data: expected targets that count, got none"):
        trainer.evaluate(Chunks((x, x + IGNORED)))


def test_a_chunk_without_targets_that_count_makes_no_update():
    some, none = streams().epoch(0)[:2], (IDS[:8].reshape(4, 2), np.full((4, 2), IGNORED))
    seen = []

    class Keep(Callback):
        def on_step(self, trainer, loss):
            seen.append(loss)

    with_it, without = make(callbacks=[Keep()]), make()
    (row,) = with_it.fit(Chunks(none, some[0], none, some[1]), epochs=1)
    (expected,) = without.fit(Chunks(*some), epochs=1)
    assert_same(with_it, without)
    assert comparable([row]) == comparable([expected])
    assert np.mean(seen) == row["train_loss"]


def test_a_batch_of_empty_sequences_makes_no_update():
    x, lengths = fr.pad_sequences([np.arange(5), np.arange(3), np.zeros(0, int), np.arange(4)])
    trainer = make(metrics=[fr.accuracy], train_metrics=True)
    (row,) = trainer.fit(fr.Batches(x, x.copy(), 1, lengths=lengths), epochs=1)
    assert row["step"] == 3 and math.isfinite(row["train_loss"])


def test_a_chunk_without_targets_that_count_carries_the_state_on():
    chunks = streams().epoch(0)[:3]
    chunks[1] = chunks[1][0], np.full_like(chunks[1][1], IGNORED)
    states = []

    class Spy(Callback):
        def on_step(self, trainer, loss):
            states.append(trainer.state[0][0].copy())

    trainer, data = make(callbacks=[Spy()]), Chunks(*chunks)
    data.carries_state = True
    trainer.optimizer.lr = 0.0  # the weights stay, so the states can be computed again
    trainer.fit(data, epochs=1)
    _, state = trainer.model(np.concatenate([x for x, _ in chunks]))
    np.testing.assert_allclose(states[-1], state[0][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_the_loss_of_an_epoch_with_skipped_chunks_survives_a_stop_within_it(stop, tmp_path):
    none = (IDS[:8].reshape(4, 2), np.full((4, 2), IGNORED))
    one, two, three = streams().epoch(0)[:3]
    data = Chunks(none, one, none, two, none, three, none)
    unbroken, first = make(), make()
    unbroken.fit(data, epochs=2)
    first.fit(data, steps=stop)
    second = through_a_file(first, tmp_path / "t.safetensors")
    second.fit(data, epochs=2)
    assert_same(unbroken, second)
    assert comparable(unbroken.history) == comparable(second.history)


def test_an_epoch_in_which_no_target_counts_is_refused():
    none = (IDS[:8].reshape(4, 2), np.full((4, 2), IGNORED))
    with pytest.raises(ValueError, match=r"^data: expected targets that count, got none"):
        make().fit(Chunks(none, none), steps=1)


def test_data_that_carries_no_state_starts_each_chunk_from_zero():
    x, target = streams().epoch(0)[0]
    fresh, again = make(), make()
    fresh.fit(Chunks((x, target), (x, target)), steps=2)
    assert fresh.state is None
    assert fresh.evaluate(Chunks((x, target))) == fresh.evaluate(Chunks((x, target), (x, target)))
    again.fit(Chunks((x, target)), epochs=2)
    assert_same(fresh, again)


def mse_in_numpy(y, target):
    difference = y - target
    return np.mean(difference**2), 2 * difference / difference.size


def test_a_loss_of_numpy_becomes_a_float_everywhere(tmp_path):
    model = fr.GRU(2, 3, seed=0)
    x = np.random.default_rng(0).standard_normal((4, 6, 2)).astype("f4")
    y = np.zeros((4, 6, 3), "f4")
    data = fr.Batches(x, y, batch_size=3)
    log, best = tmp_path / "log", tmp_path / "best"
    callbacks = [fr.callbacks.JSONLinesLog(log), fr.callbacks.Checkpoints(best)]
    trainer = Trainer(model, fr.optim.SGD(model, 0.1), mse_in_numpy, callbacks=callbacks)
    (row,) = trainer.fit(data, data, epochs=1)
    assert type(trainer.train_step(x, y)) is float
    assert {type(row[name]) for name in ("train_loss", "val_loss", "best")} == {float, bool}
    assert json.loads(log.read_text())["val_loss"] == row["val_loss"]


def test_a_part_of_an_epoch_is_not_the_best_without_validation():
    whole_epochs, in_parts = make(), make()
    whole_epochs.fit(streams(), epochs=2)
    for steps in (3, 9, 31):
        in_parts.fit(streams(), steps=steps)
    in_parts.fit(streams(), epochs=2)
    assert [row["best"] for row in in_parts.history] == [
        row["best"] for row in whole_epochs.history
    ]
    assert in_parts.progress.best == whole_epochs.progress.best


def test_targets_may_be_lists():
    model = fr.Sequential(fr.GRU(5, 4, seed=0), fr.Linear(4, 5, seed=1))
    trainer = Trainer(model, fr.optim.SGD(model, 0.1))
    (row,) = trainer.fit(Chunks(([[0, 1], [2, 3]], [[1, 2], [3, 4]])), epochs=1)
    assert row["step"] == 1 and row["tokens_per_s"] > 0
