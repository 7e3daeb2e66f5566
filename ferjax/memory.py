"""glibc's allocator, set to keep the memory that a training step frees."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from malloc.h
INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    XLA:CPU allocates and frees some hundred MB of temporaries in every step. By default glibc
    returns them to the system, and page faults then take about 20 % of the next step. Call this
    before JAX starts its threads. Resident memory then stays at its peak, which fragmentation may
    raise.

    Returns:
      True if it took effect, False without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: INT_MAX, M_ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
