"""Memory of large tensors, kept from step to step.

glibc gives large blocks back to the system as soon as they are free, and the system clears every
page of the next one first. A step allocates the same blocks again and again: kept, they save 4 % of
a step of images and 12 % of one of clips on a CPU, and no number changes.
"""

from __future__ import annotations

import ctypes
import os
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"of glibc's malloc.h"
_LARGEST = 1 << 30
"Blocks beyond this many bytes still go back."


def keep_memory() -> bool:
    """Keep freed memory in this process, and have large tensors in huge pages; say whether.

    The second holds where torch has allocated nothing yet. Elsewhere than on glibc nothing happens.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_MMAP_THRESHOLD, _LARGEST), mallopt(_TRIM_THRESHOLD, 2**31 - 1)])
