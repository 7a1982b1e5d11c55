"""The metadata database: the only SQL of Flux. Functions take an open connection and return frozen records."""

from __future__ import annotations

from flux.store.engine import Store

__all__ = ["Store"]
