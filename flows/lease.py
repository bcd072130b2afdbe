"""A run's lease: what it began is its own while it lives, and anybody's soon after it was killed."""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Self

from flows.errors import StoreError
from flows.store import open_store

_log = logging.getLogger(__name__)

# Two renewals may fail or come late before others take the chunks.
_RENEWALS = 3


class Lease:
    """Holds a run's claims in the ledger while the `with` block lasts; what is not ended then is handed back.

    Args:
        url: Of the store. The lease has a connection of its own: a long statement of the run's must not end it.
        run_id: Of a run that is recorded.
        seconds: How long claims outlive a run that is killed.
    """

    def __init__(self, url: str, run_id: str, seconds: float) -> None:
        self._store = open_store(url)
        self._run_id = run_id
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")

    def __enter__(self) -> Self:
        self._store.hold(self._run_id, self._seconds)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        try:
            self._store.hand_back(self._run_id)
            self._store.hold(self._run_id, 0)
        except StoreError as lost:
            _log.warning("the run's chunks could not be handed back and are free in %g s: %s", self._seconds, lost)
        finally:
            self._store.close()

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / _RENEWALS):
            try:
                self._store.hold(self._run_id, self._seconds)
            except StoreError as error:
                _log.warning("the run's lease could not be renewed: %s", error)
