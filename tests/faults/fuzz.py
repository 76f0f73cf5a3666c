"""What the fault tests share: the same cases in each run, and damages drawn by hypothesis."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


def law(cases: int) -> settings:
    """So many cases, the same in each run; a busy machine is no failure."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=cases, derandomize=True, deadline=None, suppress_health_check=slow)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 3) -> tuple[bytes, int]:
    """The content after one to `most` damages, and how many of its first bytes are untouched."""
    whole, first = bytearray(content), len(content)
    for _ in range(draw(st.integers(1, most))):
        at = draw(st.integers(0, max(len(whole) - 1, 0)))
        kind = draw(st.sampled_from(["flip", "cut", "zeros", "insert", "delete", "append", "byte"]))
        if kind == "append":
            at = len(whole)
        if kind == "flip" and whole:
            whole[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and whole:
            whole[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del whole[at:]
        elif kind in ("zeros", "delete"):
            stop = min(len(whole), at + draw(st.integers(1, 40)))
            whole[at:stop] = bytes(stop - at) if kind == "zeros" else b""
        elif kind in ("insert", "append"):
            whole[at:at] = draw(st.binary(min_size=1, max_size=12))
        first = min(first, at)
    return bytes(whole), first
