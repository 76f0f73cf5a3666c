"""Elements and distances become features as Figure 1 says."""

from __future__ import annotations

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from small import silu, stirred

from hdgnn_jax.models.embedding import DistanceBlock, element_index


@settings(max_examples=25, deadline=None)
@given(elements=st.lists(st.integers(1, 118), min_size=1, unique=True), data=st.data())
def test_element_index_is_the_place_in_the_list(elements, data):
    """Whatever the order of the list; padding, 0, is some valid place."""
    z = np.array(data.draw(st.lists(st.sampled_from(elements), min_size=1)))
    np.testing.assert_array_equal(np.array(elements)[element_index(z, elements)], z)
    assert 0 <= element_index(np.array([0]), elements)[0] < len(elements)


def test_distance_block_equals_numpy():
    """SiLU(W2 SiLU((W1 g + E_s[z_j] + E_r[z_i]) / sqrt 3) + b2)."""
    rng = np.random.default_rng(0)
    smeared = rng.uniform(size=(12, 7)).astype(np.float32)
    species, (senders, receivers) = rng.integers(3, size=5), rng.integers(5, size=(2, 12))
    block = DistanceBlock(3, 6, "float32")
    params = stirred(block.init, smeared, species, senders, receivers)
    p = params["params"]
    total = smeared @ p["distance"]["kernel"] + p["distance"]["bias"]
    total = total + p["sender"]["table"][species[senders]]
    total = (total + p["receiver"]["table"][species[receivers]]) / 3**0.5
    want = silu(silu(total) @ p["mix"]["kernel"] + p["mix"]["bias"])
    got = jax.jit(block.apply)(params, smeared, species, senders, receivers)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
