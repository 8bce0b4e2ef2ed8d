"""Which allocator Arrow takes; to be imported before Arrow is.

Its own one sets 8 MB aside in every process, and knows nothing of a fork; the system's does not,
and does. Arrow looks once, when it is loaded: whoever loaded it earlier keeps what there is.
"""

import os

os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
