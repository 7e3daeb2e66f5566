"""Keeping freed memory is asked of glibc, and silently not of anything else."""

import ctypes

from ferjax import memory


def test_it_takes_effect_with_glibc_alone(monkeypatch):
    if hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        assert memory.keep_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
