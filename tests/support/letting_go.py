"""Whether something is freed when nobody refers to it, without the help of the garbage collector."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable


def require_let_go(make: Callable[[], object]) -> None:
    """Require that what ``make`` returns, to which nobody else refers, is freed at once; raises AssertionError."""
    made = make()
    seen = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert seen() is None
    finally:
        gc.enable()
