"""Functions whose calls are to be run again after some exceptions: the flag ``retry_on`` of views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ipkernel.serialize.dependent import rejects

__all__ = ["Retry", "Retrying"]


class Retry(Exception):
    """An engine is to say that a call may be run again; nobody else ever sees this.

    Attributes:
        error: What the call raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Retrying:
    """A function, with the exceptions after which its call is to be run again.

    Args:
        f: The function.
        on: The exceptions.
    """

    def __init__(self, f: Callable[..., Any], on: tuple[type[Exception], ...]) -> None:
        self.f = f
        self.on = on

    @property
    def __name__(self) -> str:
        name = getattr(self.f, "__name__", None)
        return name if isinstance(name, str) else type(self.f).__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            Retry: It has raised one of the exceptions.
        """
        try:
            return self.f(*args, **kwargs)
        except self.on as error:
            if rejects(error):  # another engine is asked in any case
                raise
            if error.__traceback__ is not None:
                error.__traceback__ = error.__traceback__.tb_next  # without this function
            raise Retry(error) from None
