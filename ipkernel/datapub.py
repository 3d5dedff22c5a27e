"""``publish_data``, under the name that users of this field import it by; see :mod:`ipkernel.engine`."""

from __future__ import annotations

from ipkernel.engine import publish_data

__all__ = ["publish_data"]
