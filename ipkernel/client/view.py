"""The views, under the names that users import."""

from __future__ import annotations

from ipkernel.client.balancedview import LoadBalancedView
from ipkernel.client.baseview import View
from ipkernel.client.directview import BroadcastView, DirectView
from ipkernel.client.mapping import LazyMapIterator

__all__ = ["BroadcastView", "DirectView", "LazyMapIterator", "LoadBalancedView", "View"]
