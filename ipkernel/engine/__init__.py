"""The engine: a process without a reactor that runs user code, one task after the other.

Code that runs on an engine can ask where it is and publish values while it runs::

    import ipkernel.engine

    ipkernel.engine.current().engine          # the engine's id
    ipkernel.engine.publish_data({"i": i})    # shows up in the AsyncResult's ``data``

Nothing here imports Twisted or Foolscap.
"""

from __future__ import annotations

from ipkernel.engine.current import CurrentEngine, current, publish_data

__all__ = ["CurrentEngine", "current", "publish_data"]
