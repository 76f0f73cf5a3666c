"""The layout is l = 0..L, and m = -l..l inside each degree."""

from __future__ import annotations

import itertools

import pytest

from hdgnn_jax.so3 import degrees


@pytest.mark.parametrize("degree", range(7))
def test_coefficients_ascend_by_degree_then_order(degree):
    pairs = [(l, m) for l in range(degree + 1) for m in range(-l, l + 1)]
    assert degrees.size(degree) == len(pairs)
    assert degrees.degree_of(degree).tolist() == [l for l, _ in pairs]
    assert degrees.order_of(degree).tolist() == [m for _, m in pairs]
    for l in range(degree + 1):
        assert pairs[degrees.block(l)] == [(l, m) for m in range(-l, l + 1)]
    for m_max, l_max in itertools.product(range(8), (None, 0, 2, 9)):
        top = degree if l_max is None else l_max
        kept = [k for k, (l, m) in enumerate(pairs) if abs(m) <= m_max and l <= top]
        assert degrees.rows(degree, m_max, l_max).tolist() == kept
    for low, high in itertools.product(range(4), range(4)):
        orders = [(abs(m) > low, k) for k, (_, m) in enumerate(pairs) if abs(m) <= max(low, high)]
        kept = [k for _, k in sorted(orders)]
        assert degrees.low_first(degree, low, high).tolist() == kept
