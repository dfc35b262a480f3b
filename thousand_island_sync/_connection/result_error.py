"""The error for a value that no callback may return."""

from __future__ import annotations

import inspect
from typing import Any

from ..errors import HandlerResultError
from ..handler import Close, Continue, Error, SwitchTransport

_CALLED: dict[Any, str] = {
    Close: "Close()",
    Continue: "Continue()",
    Error: "Error(reason)",
    SwitchTransport: "SwitchTransport(...)",
}
_MOST_SHOWN = 200


def result_error(callback: str, result: Any) -> HandlerResultError:
    """The error for what `callback` (class and name) returned."""
    return HandlerResultError(f"{callback} returned {shown(result)}; {_advice(result)}")


def _advice(result: Any) -> str:
    called = _CALLED.get(result) if isinstance(result, type) else None
    if called is not None:
        return f"that is the class; return {called}"
    if inspect.iscoroutine(result):
        result.close()  # or Python warns that it was never awaited
        return "callbacks are plain functions, which may block: nothing awaits a coroutine"
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        return "callbacks are plain functions: take the `yield` out"
    return "it takes None, Continue(), Close(), Error(reason) or SwitchTransport(...)"


def shown(value: Any) -> str:
    """A user's value as text, cut short."""
    try:
        text = repr(value)
    except Exception:  # its `__repr__` is user code
        text = f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
