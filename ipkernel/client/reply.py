"""What comes back from source text that an engine has run."""

from __future__ import annotations

from typing import Any

from ipkernel.client import metadata as meta
from ipkernel.client.task import TaskRecord


class ExecuteReply:
    """The reply to an ``execute``: it shows itself as the result does.

    The metadata of the task (``stdout``, ``engine_id``, …) are attributes.

    Attributes:
        execution_count: The number of the input on its engine.
        execute_result: None, or the last expression's value as ``{"data": {mime: …}, "metadata":
            {…}}``.
        outputs: What was displayed while it ran.
    """

    def __init__(self, record: TaskRecord, value: dict[str, Any]) -> None:
        self._record = record
        self.execution_count: int = value.get("execution_count") or 0
        self.execute_result: dict[str, Any] | None = value.get("result")
        self.outputs = meta.displays(record) + list(value.get("outputs") or [])

    @property
    def metadata(self) -> meta.Metadata:
        """The metadata of the task."""
        return meta.describe(self._record)

    @property
    def data(self) -> dict[str, Any]:
        """The result by MIME type; empty if there is none."""
        return dict((self.execute_result or {}).get("data") or {})

    @property
    def engine(self) -> int:
        """The engine that ran it."""
        return self._record.engine

    @property
    def stdout(self) -> str:
        """What was written to stdout."""
        text: str = self.metadata.stdout
        return text

    @property
    def stderr(self) -> str:
        """What was written to stderr."""
        text: str = self.metadata.stderr
        return text

    @property
    def text(self) -> str:
        """The result as plain text; empty if there is none."""
        return str(self.data.get("text/plain", ""))

    def __getattr__(self, name: str) -> Any:
        if name in meta.KEYS:
            return self.metadata[name]
        raise AttributeError(name)

    def __getitem__(self, key: str) -> Any:
        return self.metadata[key]

    def __repr__(self) -> str:
        return f"<ExecuteReply[{self.execution_count}]: {_shorten(self.text)}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        if not self.text:
            printer.text(repr(self))
            return
        printer.text(f"Out[{self.engine}:{self.execution_count}]: {self.text}")

    def _repr_mimebundle_(self, *args: object, **kwargs: object) -> Any:
        data = self.data
        if not data:
            return {"text/plain": repr(self)}
        data["text/plain"] = f"Out[{self.engine}:{self.execution_count}]: {self.text}"
        return data, (self.execute_result or {}).get("metadata") or {}


def _shorten(text: str, limit: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
