"""Workers of a loader end together, so that none leaves anybody waiting.

All of them write into one pipe, under one lock. One that is killed as it writes leaves half a
message and holds the lock: the reader would wait for the other half without end, and the others for
the lock. Deadlines of a loader do not hold inside of a message.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from torch.utils.data._utils.signal_handling import _remove_worker_pids


def end_together(started: Any) -> None:
    """Have the workers of a loader's iterator end once one of them does; its reader then sees so.

    Args:
        started: the iterator of a DataLoader with workers.
    """
    # The reader may write into the pipe, too, and would wait for itself.
    started._worker_result_queue._writer.close()
    Thread(target=_end_all, args=(list(started._workers),), daemon=True).start()


def _end_all(workers: Sequence[BaseProcess]) -> None:
    wait([worker.sentinel for worker in workers])
    for worker in workers:
        worker.kill()


def abandon(started: Any) -> None:
    """Let an iterator go whose workers died: asking them to end could wait for what they locked."""
    started._shutdown = True
    if started._worker_pids_set:  # torch knows iterators by their address, which another may get
        _remove_worker_pids(id(started))
        started._worker_pids_set = False
    for worker in started._workers:
        worker.kill()
    for queue in started._index_queues:
        queue.cancel_join_thread()
