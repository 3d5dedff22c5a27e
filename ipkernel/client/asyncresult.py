"""Results, under the names that users import."""

from __future__ import annotations

from ipkernel.client.mapresult import AsyncMapResult
from ipkernel.client.result import AsyncResult

__all__ = ["AsyncHubResult", "AsyncMapResult", "AsyncResult"]

#: Results of tasks that other clients have submitted are like any others.
AsyncHubResult = AsyncResult
