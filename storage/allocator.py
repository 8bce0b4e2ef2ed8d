"""What a process holds of memory beside its data; to be imported before Arrow is.

Arrow's own allocator sets 8 MB aside in every process, and knows nothing of a fork; the system's
does not, and does. Arrow looks once, when it is loaded: whoever loaded it earlier keeps what there
is. And code that runs once, as that of imports does, stays in memory ever after: 90 MB of torch and
Arrow. It is given back before Arrow is loaded, and by whoever has run much of it once.
"""

import ctypes
import mmap
import os
import sys
from contextlib import suppress


def give_back_code() -> None:
    """Give the pages of this process's code back to the system, which has them in its file cache.

    Those that are run again return as they are run, 64 kB at a time; that takes milliseconds in
    all. Breakpoints that a debugger had set are gone. Elsewhere than on Linux nothing is done.
    """
    if sys.platform != "linux":
        return
    advise = ctypes.CDLL(None).madvise
    with suppress(OSError), open("/proc/self/maps") as mappings:
        for mapping in mappings:
            place, rights, *_, name = mapping.split(maxsplit=5)
            if rights == "r-xp" and name.startswith("/"):  # of a file, and never written to
                begin, end = (int(address, 16) for address in place.split("-"))
                advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
give_back_code()
