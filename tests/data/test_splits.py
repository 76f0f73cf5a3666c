"""The splits are the published ones, whatever is installed."""

from __future__ import annotations

import numpy as np
import pytest

from hdgnn_jax.data import splits

PUBLISHED = {
    "standard": ((110_000, 10_000, 10_831), [34769, 76096, 108805, 71268, 79788]),
    "cormorant": ((100_000, 17_748, 13_083), [130195, 68784, 7957, 25911, 20168]),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parts_have_the_published_sizes_and_share_no_molecule(name):
    split = splits.split(name)
    sizes, first = PUBLISHED[name]
    assert (len(split.train), len(split.validation), len(split.test)) == sizes
    assert split.train[:5].tolist() == first
    everything = np.concatenate([split.train, split.validation, split.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(splits.N_MOLECULES))


def test_the_standard_split_goes_on_as_published():
    split = splits.split("standard")
    assert split.validation[:3].tolist() == [11009, 104304, 58424]
    assert split.test[:3].tolist() == [63823, 99719, 73336]


def test_a_digest_changes_with_any_row_and_with_any_border():
    base = splits.Split(np.array([0, 1]), np.array([2]), np.array([3, 4]))
    swapped = splits.Split(np.array([1, 0]), base.validation, base.test)
    moved = splits.Split(np.array([0]), np.array([1, 2]), base.test)
    assert len({base.digest, swapped.digest, moved.digest}) == 3


def test_another_permutation_than_the_published_is_refused(monkeypatch):
    monkeypatch.setitem(splits.DIGESTS, "standard", "0" * 64)
    with pytest.raises(ValueError, match="no longer draws the published split standard"):
        splits.split("standard")


def test_an_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="one of standard, cormorant, not 'random'"):
        splits.split("random")
