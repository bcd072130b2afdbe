"""Model calls in batches that shrink to what the device's memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from flows.errors import OutOfMemoryError

_Item = TypeVar("_Item")
_Out = TypeVar("_Out")


class Batches:
    """Runs a step over items in batches; once memory runs out, the batch is halved for good.

    Args:
        size: Items a call at first.
        too_large: What to say when not even one item fits.
        filled: Whether steps are shown a power of two of items, the last one again and again: a step that is
            compiled for each number of items is compiled for few. What it makes of the others is to be left alone.
    """

    def __init__(self, size: int, too_large: str, *, filled: bool = False) -> None:
        self._size = size
        self._too_large = too_large
        self._filled = filled

    def run(
        self, items: Sequence[_Item], step: Callable[[Sequence[_Item]], _Out]
    ) -> Iterator[tuple[Sequence[_Item], _Out]]:
        """Yield each batch with what the step made of it.

        Raises:
            OutOfMemoryError: One item does not fit.
        """
        start = 0
        while start < len(items):
            part = items[start : start + self._size]
            try:
                out = step(self._fill(part))
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise OutOfMemoryError(self._too_large) from error
                self._size = len(part) // 2
            else:
                yield part, out
                start += len(part)
                continue
            # Only now: as long as the error was at hand, its frames held the tensors of the step.
            torch.cuda.empty_cache()

    def _fill(self, part: Sequence[_Item]) -> Sequence[_Item]:
        whole = min(self._size, 1 << (len(part) - 1).bit_length()) if self._filled else len(part)
        return [*part, *[part[-1]] * (whole - len(part))]
