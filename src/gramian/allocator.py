"""The memory allocator of a process that trains or times; imports only Python's own, so that it can be set first."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_MOST_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the allocator keep what is freed, for all libraries of this process; False where it is not glibc's.

    Arrays of 80 MB are otherwise given back to the system after each use, and the page faults of getting them again
    take longer than the computation. The command line does this for itself; a program of yours gains from calling it
    before torch is imported. The price is that memory stays with the process until it ends.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    # One arena: in others, which threads of JAX would get, arrays beyond 64 MB are mapped anew whatever is asked for.
    wanted = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _MOST_KEPT))
    return all(mallopt(option, value) for option, value in wanted)
