"""Text, vocabulary, and the two walks over a sequence of ids."""

import sys

import numpy as np
import pytest

import fastrnn as fr
from fastrnn.data import IGNORED, Batches, Streams, Vocabulary, Whole, builtin_corpus, split


def test_the_built_in_corpus_is_the_same_every_time_and_long_enough_to_train_on():
    assert builtin_corpus() == builtin_corpus()
    assert len(builtin_corpus()) > 300_000


def test_a_python_without_the_corpus_is_told_to_name_a_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(RuntimeError, match="name a text file"):
        builtin_corpus()


@pytest.mark.parametrize("text", ["hello\n", "ßéa", "a\U0001f600b\U0001f600", "x"])
def test_decoding_an_encoded_text_gives_it_back(text):
    vocabulary = Vocabulary.of(text)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_ids_follow_the_order_of_the_characters():
    assert Vocabulary.of("banana").encode("abn").tolist() == [0, 1, 2]


@pytest.mark.parametrize(("text", "named"), [("b?", "'?'"), ("z~", "'z', '~'"), (" a", "' '")])
def test_a_character_outside_the_vocabulary_is_named(text, named):
    with pytest.raises(ValueError, match="prime: expected only the 2 characters") as error:
        Vocabulary("ab").encode(text, "prime")
    assert str(error.value).endswith(f"got {named}")


@pytest.mark.parametrize("characters", ["", "ba", "aab"])
def test_a_vocabulary_that_is_not_sorted_and_distinct_is_refused(characters):
    with pytest.raises(ValueError, match="vocabulary: expected sorted and distinct"):
        Vocabulary(characters)


def test_the_usual_split_of_tiny_shakespeare_comes_out():
    train, validation = split(np.arange(1_115_394), 0.1)
    assert (len(train), validation[0]) == (1_003_854, 1_003_854)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_validation_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=r"val_fraction: expected a number in \[0, 1\)"):
        split(np.arange(10), fraction)


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize(("n", "B", "T"), [(13, 2, 3), (100, 3, 4), (7, 1, 6), (50, 7, 1)])
def test_streams_predict_the_next_id_and_go_on_where_the_last_chunk_ended(n, B, T, seed):
    data = Streams(np.arange(n), B, T, seed)
    chunks = data.epoch(3)
    assert len(chunks) == len(data) == (n - 1) // (B * T)
    x = np.concatenate([x for x, _ in chunks])
    target = np.concatenate([t for _, t in chunks])
    assert chunks[0][0].shape == (T, B)
    assert np.array_equal(target, x + 1)
    assert np.array_equal(np.diff(x, axis=0), np.ones((len(x) - 1, B)))
    assert np.array_equal(x[-1, :-1] + 1, x[0, 1:])  # stream after stream, nothing twice


def test_chunks_are_contiguous_so_that_the_engine_need_not_copy_them():
    assert all(a.flags.c_contiguous for a in Streams(np.arange(99), 4, 5, 0).epoch(1)[2])


def test_an_epoch_depends_on_its_number_and_the_seed_alone():
    ids = np.arange(1000)
    first = [x[0, 0] for x, _ in (Streams(ids, 10, 30, seed=1).epoch(e)[0] for e in range(20))]
    again = [x[0, 0] for x, _ in (Streams(ids, 10, 30, seed=1).epoch(e)[0] for e in range(20))]
    assert first == again
    assert len(set(first)) > 5


def test_every_id_is_trained_on_in_some_epoch():
    data = Streams(np.arange(100), 4, 6, seed=0)
    seen = {int(i) for e in range(100) for x, _ in data.epoch(e) for i in x.ravel()}
    assert seen == set(range(99))


def test_a_sequence_of_exactly_one_chunk_and_its_target_is_enough():
    assert len(Streams(np.arange(7), 2, 3)) == 1


def test_a_sequence_shorter_than_one_chunk_is_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"more than batch size x .* 2 x 3 = 6 .*, got 6"):
        Streams(np.arange(6), 2, 3)


@pytest.mark.parametrize(("n", "B", "T"), [(2, 50, 50), (6, 2, 2), (100, 7, 5), (101, 10, 10)])
def test_a_whole_walk_predicts_every_id_but_the_first_exactly_once(n, B, T):
    pairs = Whole(np.arange(n), B, T).epoch(0)
    x = np.concatenate([x for x, _ in pairs])
    target = np.concatenate([t for _, t in pairs])
    counted = target != IGNORED
    assert sorted(target[counted].tolist()) == list(range(1, n))
    assert np.array_equal(x[counted] + 1, target[counted])


@pytest.mark.parametrize("kind", [Streams, Whole])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint64", list])
def test_ids_may_be_integers_of_any_kind(kind, dtype):
    ids = np.arange(8)  # one input more than two streams share
    given = ids.tolist() if dtype is list else ids.astype(dtype)
    for chunk, expected in zip(kind(given, 2, 2).epoch(0), kind(ids, 2, 2).epoch(0), strict=True):
        np.testing.assert_array_equal(chunk, expected)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_predict_is_refused(n):
    with pytest.raises(ValueError, match=f"at least 2 characters to validate on, got {n}"):
        Whole(np.arange(n), 1, 1)


# Sequences of different length


RAGGED = [np.arange(3), np.arange(0), np.arange(5) + 10, np.arange(1) + 20]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("rest", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8"])
def test_unpadding_what_was_padded_gives_the_sequences_back(dtype, rest, batch_first):
    rng = np.random.default_rng(0)
    given = [rng.integers(0, 9, (n, *rest)).astype(dtype) for n in (3, 0, 5, 1)]
    padded, lengths = fr.pad_sequences(given, batch_first)
    assert padded.shape == ((4, 5, *rest) if batch_first else (5, 4, *rest))
    assert (padded.dtype, lengths.tolist()) == (dtype, [3, 0, 5, 1])
    assert padded.flags.c_contiguous
    for one, other in zip(given, fr.unpad_sequences(padded, lengths, batch_first), strict=True):
        assert np.array_equal(one, other)


def test_the_padding_is_the_value_that_was_asked_for():
    padded, _ = fr.pad_sequences([[1.5], [2.5, 3.5]], batch_first=True, value=np.nan)
    np.testing.assert_array_equal(padded, [[1.5, np.nan], [2.5, 3.5]])


def test_an_empty_list_among_token_ids_leaves_them_integers():
    assert fr.pad_sequences([[1, 2], []])[0].dtype.kind == "i"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "sequences: expected at least one, got none"),
        (([np.ones((2, 3)), np.ones((2, 4))],), r"sequence 1: expected shape \(steps, 3\), as of"),
        (([[1], 2],), r"sequence 1: expected shape \(steps,\), as of sequence 0, got \(\)"),
        (([np.ones(2, np.uint8)], False, -100), "value: -100 does not fit into uint8"),
        (([[1, 2]], False, 0.5), "value: 0.5 does not fit into int64"),
    ],
)
def test_what_cannot_be_padded_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fr.pad_sequences(*arguments)


@pytest.mark.parametrize("lengths", [[1, 6, 2], [1, -1, 2], [1, 2], [1.0, 2.0, 3.0], 2])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths: expected 3 integers from 0 to 5, got "):
        fr.unpad_sequences(np.zeros((5, 3)), lengths)


# Batches


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_an_epoch_of_batches_has_every_sequence_with_its_target_exactly_once(size, shuffle):
    x = np.arange(40).reshape(4, 10)
    data = Batches(x, x[0] + 100, size, shuffle)
    chunks = list(data.epoch(1))
    assert len(chunks) == len(data) == -(-10 // size)
    seen = np.concatenate([c for c, _ in chunks], axis=1)
    assert np.array_equal(seen[0] + 100, np.concatenate([t for _, t in chunks]))
    assert np.array_equal(seen if not shuffle else seen[:, seen[0].argsort()], x)


def test_the_order_of_batches_depends_on_the_seed_and_the_number_of_the_epoch_alone():
    def order(seed, epoch):
        x = np.arange(50)
        return np.concatenate(
            [c for c, _ in Batches(x, x, 8, seed=seed, batch_first=True).epoch(epoch)]
        )

    assert np.array_equal(order(3, 2), order(3, 2))
    assert not np.array_equal(order(3, 2), order(3, 4))
    assert not np.array_equal(order(3, 2), order(4, 2))


@pytest.mark.parametrize("batch_first", [False, True])
def test_batches_hand_on_lengths_and_do_not_count_targets_past_them(batch_first):
    x, lengths = fr.pad_sequences(RAGGED, batch_first)
    for inputs, target, n in Batches(x, x, 3, lengths=lengths, batch_first=batch_first).epoch(0):
        inputs, target = (a if batch_first else a.T for a in (inputs, target))
        for row, wanted, steps in zip(inputs, target, n, strict=True):
            assert np.array_equal(wanted[:steps], row[:steps])
            assert (wanted[steps:] == IGNORED).all()


def test_a_target_for_each_sequence_and_real_targets_stay_as_they_are():
    x, lengths = fr.pad_sequences(RAGGED)
    labels = np.array([3, 1, 4, 1])
    _, target, _ = Batches(x, labels, 4, False, lengths=lengths).epoch(0)[0]
    assert np.array_equal(target, labels)
    _, target, _ = Batches(x, x + 0.5, 4, False, lengths=lengths).epoch(0)[0]
    assert np.array_equal(target, x + 0.5)


def test_a_batch_is_contiguous_so_that_the_engine_need_not_copy_it():
    x = np.zeros((5, 20, 3))
    assert all(a.flags.c_contiguous for a in Batches(x, x, 4).epoch(0)[1])


def test_an_epoch_of_batches_is_indexed_like_a_list():
    x = np.arange(14).reshape(2, 7)
    epoch = Batches(x, x, 2).epoch(0)
    chunks = list(epoch)
    for place in (-1, -4, 3, np.int64(-2)):
        np.testing.assert_array_equal(epoch[place], chunks[place])
    for part in (slice(0, 1), slice(-2, None), slice(None, None, -1), slice(9, 99)):
        assert len(epoch[part]) == len(chunks[part])
        for one, other in zip(epoch[part], chunks[part], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("place", [4, -5])
def test_a_batch_beyond_the_epoch_is_an_error_that_names_its_bounds(place):
    epoch = Batches(np.zeros((2, 7)), None, 2).epoch(0)
    with pytest.raises(IndexError, match=f"^batch: expected -4 to 3, got {place}"):
        epoch[place]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((5, 3)), np.zeros(4)), {}, r"y: expected 3 sequences on axis 0, as in x, got"),
        ((np.zeros((5, 3)), None, 0), {}, "batch_size: expected at least 1, got 0"),
        ((np.zeros(5),), {}, r"x: expected at least 2 axes, got shape \(5,\); samples without"),
        ((np.zeros((5, 0)),), {}, "x: expected at least one sequence on axis 1"),
        (
            ((np.zeros((5, 3)), np.zeros((5, 4))),),
            {},
            r"as many in each array, got shape \(5, 3\) an",
        ),
        ((np.zeros((5, 3)),), {"lengths": [1, 2, 6]}, "lengths: expected 3 integers from 0 to 5"),
    ],
)
def test_batches_that_do_not_fit_together_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        Batches(*arguments, **options)


def test_several_inputs_are_taken_together_and_keep_their_targets():
    source, target = np.arange(20).reshape(4, 5), np.arange(20).reshape(4, 5) + 100
    data = Batches((source, target[:3]), target[:3], 2, lengths=[1, 2, 3, 4, 0])
    for (s, t), wanted, n in data.epoch(0):
        assert np.array_equal(s[:3] + 100, t)
        assert np.array_equal(t, wanted)  # lengths are those of the source
        assert np.array_equal(n, (s[0] + 1) % 5)


def test_ids_beyond_the_vocabulary_have_no_character():
    for wrong in ([-1], [0, 3]):
        with pytest.raises(ValueError, match=r"^ids: expected values in \[0, 3\), got"):
            Vocabulary("abc").decode(wrong)


@pytest.mark.parametrize("kind", [Streams, Whole])
@pytest.mark.parametrize(
    ("B", "T", "name"), [(0, 5, "batch_size"), (-2, 5, "batch_size"), (2, 0, "seq_len")]
)
def test_sizes_of_chunks_below_one_are_refused(kind, B, T, name):
    with pytest.raises(ValueError, match=rf"^{name}: expected 1 or more, got"):
        kind(np.arange(100), B, T)


def test_a_padding_of_numpy_is_rounded_like_one_of_python():
    sequences = [np.ones(2, "f4"), np.ones(1, "f4")]
    padded, _ = fr.pad_sequences(sequences, value=np.float64(0.1))
    assert padded[1, 1] == np.float32(0.1) and padded.dtype == np.float32


def test_an_empty_sequence_among_ids_leaves_them_integers():
    x, lengths = fr.pad_sequences([[], [1, 2]])
    assert x.dtype.kind == "i" and lengths.tolist() == [0, 2]
