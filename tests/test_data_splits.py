"""Splits: stratified, nested, fixed by split_seed, the same on every machine."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablate.config import DataConfig
from ablate.data.ordering import hashed, stratified_order
from ablate.data.splits import split
from ablate.errors import DataError

NAMES = [f"class{number}" for number in range(10)]


def balanced(per_class: int = 50) -> np.ndarray:
    return np.tile(np.arange(10), per_class)


def cut(labels, **fields):
    return split(labels, DataConfig(**fields), NAMES)


def splitmix64(state: int):
    """The published generator, one number at a time in Python's own integers."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = state
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        yield word ^ (word >> 31)


def test_the_numbers_of_a_seed_are_those_of_splitmix64():
    """0xE220A8397B1DCDAF is the published first output for seed 0; it starts our stream."""
    stream = splitmix64(0xE220A8397B1DCDAF)
    assert next(splitmix64(0)) == 0xE220A8397B1DCDAF
    assert hashed(0, 5).tolist() == [next(stream) for _ in range(5)]


def test_the_order_of_a_seed_never_changes():
    order = stratified_order(np.array([0, 1, 0, 1, 0, 1, 2]), 0)
    assert order.tolist() == [5, 2, 0, 3, 6, 1, 4]


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=6),
    seed=st.integers(0, 2**32),
    share=st.floats(0, 1),
)
def test_every_prefix_of_the_order_is_stratified(counts, seed, share):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    length = round(share * len(labels))
    held = np.bincount(labels[order[:length]], minlength=len(counts))
    expected = np.array(counts) * length / len(labels)
    assert (np.abs(held - expected) <= 1.5).all()


def test_val_is_held_out_of_train_and_stratified():
    labels = balanced()
    parts = cut(labels, val_fraction=0.1)
    assert (len(parts.train), len(parts.val)) == (450, 50)
    assert not set(parts.train) & set(parts.val)
    assert np.bincount(labels[parts.val]).tolist() == [5] * 10
    assert np.bincount(labels[parts.train]).tolist() == [45] * 10


@pytest.mark.parametrize("split_seed", [0, 7])
def test_smaller_fractions_are_contained_in_larger_ones(split_seed):
    labels = balanced()
    parts = [
        cut(labels, train_fraction=fraction, split_seed=split_seed)
        for fraction in (0.1, 0.3, 0.31, 1.0)
    ]
    for smaller, larger in pairwise(parts):
        assert set(smaller.train) < set(larger.train)
        np.testing.assert_array_equal(smaller.val, larger.val)
    assert (
        np.bincount(labels[parts[0].train]).max() - np.bincount(labels[parts[0].train]).min() <= 1
    )


def test_the_seed_of_the_split_is_its_only_randomness():
    labels = balanced()
    np.testing.assert_array_equal(cut(labels).val, cut(labels).val)
    assert set(cut(labels, split_seed=1).val) != set(cut(labels).val)


def test_train_is_measured_on_a_fixed_stratified_part_of_it():
    labels = balanced()
    parts = cut(labels, eval_subset=100, train_fraction=0.5)
    assert set(parts.train_eval) <= set(parts.train)
    assert np.bincount(labels[parts.train_eval]).tolist() == [10] * 10
    assert len(cut(labels, eval_subset=10_000).train_eval) == 450


def test_no_val_where_none_is_asked_for():
    parts = cut(balanced(), val_fraction=0)
    assert len(parts.val) == 0
    assert len(parts.train) == 500


def test_a_val_split_without_images_is_an_error():
    with pytest.raises(DataError, match=r"val_fraction=0.0001 of 500 .* `val` with no images"):
        cut(balanced(), val_fraction=0.0001)
    assert len(cut(balanced(), val_fraction=0.002).val) == 1


def test_a_fraction_that_empties_a_class_is_an_error_naming_it():
    with pytest.raises(DataError, match=r"train_fraction=0.01 .* leaves 6 of 10 .* 'class\d'"):
        cut(balanced(), train_fraction=0.01)
    assert len(cut(balanced(), train_fraction=0.03).train) == 14
