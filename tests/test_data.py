"""Text, vocabulary, and the two walks over a sequence of ids."""

import sys

import numpy as np
import pytest

from fastrnn.data import IGNORED, Streams, Vocabulary, Whole, builtin_corpus, split


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


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_predict_is_refused(n):
    with pytest.raises(ValueError, match=f"at least 2 characters to validate on, got {n}"):
        Whole(np.arange(n), 1, 1)
