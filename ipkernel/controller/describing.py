"""What clients say of engines: properties, which tasks may ask for."""

from __future__ import annotations

from typing import Final

from twisted.internet.defer import Deferred

from ipkernel.controller.events import EnginesDescribed
from ipkernel.controller.scheduler import Scheduler
from ipkernel.controller.turn import Turn
from ipkernel.errors import InvalidEngineID, KernelError
from ipkernel.wire.messages import MAX_PROPERTIES
from ipkernel.wire.records import Description, EngineProperties

#: So many engines more than there are may be named.
_MORE: Final = 64


def describe(scheduler: Scheduler, turn: Turn, said: Description) -> Deferred[EngineProperties]:
    """Change properties of engines.

    Args:
        scheduler: Knows the engines.
        turn: Takes events.
        said: What is to be changed.

    Returns:
        Fires with all of their properties, when these are as they should be.

    Raises:
        InvalidEngineID: An engine is not there; nothing was changed.
        KernelError: An engine is to have too many properties, or engines are named many times;
            nothing was changed.
    """
    engines = scheduler.engines
    if len(said.engines) > len(engines) + _MORE:  # the answer tells of each as often as it is named
        raise KernelError(f"{len(said.engines)} engines are named, but there are {len(engines)}")
    for number in said.engines:
        engine = engines.get(number)
        if engine is None:
            raise InvalidEngineID(f"there is no engine {number}")
        left = set() if said.clear else engine.properties.keys() - set(said.drop)
        if len(left | said.put.keys()) > MAX_PROPERTIES:
            raise KernelError(f"engine {number} may have {MAX_PROPERTIES} properties, not more")
    if said.put or said.drop or said.clear:
        for number in said.engines:
            drop = list(engines[number].properties) if said.clear else said.drop
            turn.add(EnginesDescribed([number], said.put, drop, turn.now()))

    def answer(_: None) -> EngineProperties:
        known = [engines.get(number) for number in said.engines]
        return EngineProperties(properties=[dict(e.properties) if e else {} for e in known])

    return turn.settled().addCallback(answer)
