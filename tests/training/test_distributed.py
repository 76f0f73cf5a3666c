"""A process finds its place among others, or says what is missing."""

from __future__ import annotations

import pytest

from hdgnn_jax.training.distributed import HostsError, connect


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((None, None, None), "does not know its place among others"),
        ((None, 2, 0), "does not know its place among others"),
        (("here", 2, 0), "--coordinator_address=here must be HOST:PORT"),
        (("a:1", 2, 2), "--process_id=2 must lie between 0 and --num_processes - 1"),
    ],
)
def test_a_process_without_its_place_says_so(place, message):
    with pytest.raises(HostsError, match=message):
        connect(*place, seconds=60)
