"""Uniform random numbers from a counter hash of seed, stream, index and column."""

import functools
import hashlib

import numpy as np
from jaxtyping import Float64, Integer, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(
    seed: int, stream: str, indices: Integer[np.ndarray, " rows"], count: int
) -> Float64[np.ndarray, "rows count"]:
    """Draws uniform numbers in [0, 1), each a function of seed, stream, index and column.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) with the index, then the column, as counter: a
    generator object for each face would take longer than drawing the face.
    """
    rows = _scramble(_key(seed, stream) + indices.astype(np.uint64) * _GOLDEN)
    columns = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _scramble(rows[:, None] + columns)
    return (bits >> np.uint64(11)) * 2.0**-53


@functools.cache
def _key(seed: int, stream: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _scramble(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """Applies SplitMix64's finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
