"""``interactive``, under the name that users of this field import it by."""

from __future__ import annotations

from ipkernel.serialize.functions import interactive

__all__ = ["interactive"]
