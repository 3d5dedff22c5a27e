"""The errors under the name that users of this field import them by; see :mod:`ipkernel.errors`."""

from __future__ import annotations

from ipkernel.errors import *  # noqa: F403
from ipkernel.errors import __all__ as __all__
