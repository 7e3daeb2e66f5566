"""Memory that is free for arrays."""

import resource
from pathlib import Path

import numpy as np

CGROUP = Path("/sys/fs/cgroup")


def free_bytes() -> float:
    """Returns how many bytes this process can still allocate; infinity where it cannot be known.

    It is the least of what the system has available, of what the container's limit leaves, and of
    what is left of the limit on the process's addresses.
    """
    free = [np.inf]
    meminfo = _numbers(Path("/proc/meminfo"))
    if "MemAvailable:" in meminfo:
        free.append(1024 * meminfo["MemAvailable:"])
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    cached = _numbers(CGROUP / "memory.stat").get("inactive_file", 0)
    if np.isfinite([limit, used]).all():
        free.append(limit - used + cached)
    addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
    if addresses != resource.RLIM_INFINITY:
        free.append(addresses - 1024 * _numbers(Path("/proc/self/status")).get("VmSize:", 0))
    return max(min(free), 0)


def _number(path: Path) -> float:
    """Returns the number in a file; infinity if there is none."""
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return np.inf


def _numbers(path: Path) -> dict[str, float]:
    """Returns the numbers that follow a name in each line of a file."""
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: float(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
