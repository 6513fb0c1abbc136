"""The C library's heap, as far as a service must know of it."""

import ctypes

_M_MMAP_THRESHOLD = -3
LARGE_BYTES = 2**20


def give_back() -> None:
    """From now on, what has LARGE_BYTES or more goes back to the system when it is let go.

    By itself glibc keeps it once such a piece was freed, and gaps of a model's size pile up. Does
    nothing where the C library has no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
