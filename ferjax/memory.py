"""How the process deals with the memory that a training step frees."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # from malloc.h
INT_MAX = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next step instead of returning it to the system.

    XLA:CPU allocates and frees the temporaries of every step, some hundred MB; by default glibc
    gives them back, and each of their pages then faults again: about 20 % of a step. Call it before
    JAX starts its threads. Resident memory stays at its peak, and fragments may raise that.

    Returns:
      Whether it took effect; without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: INT_MAX, M_ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
