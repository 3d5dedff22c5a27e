"""Properties of engines, as direct views set and show them; the controller keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ipkernel.client.terms import properties_of
from ipkernel.wire.messages import MAX_LIST, Simple
from ipkernel.wire.records import Description, EngineProperties, pack, unpack

if TYPE_CHECKING:
    from ipkernel.client.client import Client


class Describing:
    """The part of a direct view that is about properties of its engines.

    Properties are for all clients, and last until the engine leaves the cluster. Load-balanced views
    ask for them by their flag ``where``. All methods return one value for a view of one engine, given
    by its number, and a list with one for each engine otherwise.
    """

    client: Client

    def _resolve(self, targets: Any) -> tuple[list[int], bool]:
        raise TypeError("a view of no kind has no engines")

    def set_properties(self, properties: Mapping[str, Simple], targets: Any = None) -> None:
        """Give the engines properties, beside those that they have.

        Args:
            properties: Texts, numbers, True, False or None by name; up to 64 for an engine.
            targets: The engines; by default those of the view.

        Raises:
            TypeError, ValueError: They cannot be properties.
            InvalidEngineID: An engine is not there any more; nothing was changed.
            KernelError: An engine is to have too many; nothing was changed.
        """
        self._describe(targets, put=properties_of("properties", properties) or {})

    def get_properties(self, keys: str | Iterable[str] | None = None, targets: Any = None) -> Any:
        """Return the properties of the engines.

        Args:
            keys: Names of those that are wanted; by default all. One that an engine does not have is
                left out.
            targets: The engines; by default those of the view.

        Returns:
            A dict, or a list of dicts.
        """
        found, single = self._describe(targets)
        if keys is not None:
            names = set(_names(keys))
            found = [{n: v for n, v in one.items() if n in names} for one in found]
        return found[0] if single else found

    def has_properties(self, keys: str | Iterable[str], targets: Any = None) -> Any:
        """Tell whether the engines have all of these properties, whatever their values."""
        found, single = self._describe(targets)
        names = _names(keys)
        has = [all(name in one for name in names) for one in found]
        return has[0] if single else has

    def del_properties(self, keys: str | Iterable[str], targets: Any = None) -> None:
        """Take properties from the engines; those that they do not have are passed over."""
        self._describe(targets, drop=_names(keys))

    def clear_properties(self, targets: Any = None) -> None:
        """Take all properties from the engines."""
        self._describe(targets, clear=True)

    def _describe(self, targets: Any, **said: Any) -> tuple[list[dict[str, Simple]], bool]:
        engines, single = self._resolve(targets)
        found: list[dict[str, Simple]] = []
        for start in range(0, len(engines), MAX_LIST):
            order = pack(Description(engines=engines[start : start + MAX_LIST], **said))
            answer = self.client._call("describe_engines", order)
            found += unpack(EngineProperties, answer).properties
        return found, single


def _names(keys: str | Iterable[str]) -> list[str]:
    names = [keys] if isinstance(keys, str) else list(keys)
    return list(properties_of("keys", dict.fromkeys(names)) or {})
