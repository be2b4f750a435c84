"""Masks tokens in whatever is logged: a filter for ``logging``, and a processor for structlog.

What stays is ``acme_live_<key id>_***``, by which a key can still be found. Knows the native core
alone, and never keeps a record from being logged.
"""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any, Final

from keylatch._native import mask, mask_bytes

# What stands where something could not be masked. Rather nothing than a token.
_WITHHELD: Final = "*** (withheld: it could not be masked)"
# Deeper than this nothing is looked at.
_DEEPEST: Final = 32
_PLAIN: Final = (int, float, complex, bool, type(None))


class MaskTokens(logging.Filter):
    """Masks tokens in everything that a record has; lets every record pass.

    That is its message and arguments, also where they make a token only together, the exception
    with its traceback, the stack, and whatever ``extra`` adds. Arguments keep their types and
    places, as far as they hold no token.

    Put it on handlers, as :func:`install` does, not on loggers: those pass on what comes from
    below them without asking their filters.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Masks a record where it is."""
        try:
            _mask_record(record)
        except Exception:  # noqa: BLE001 - whatever an object raises that wants to be logged
            _withhold(record)
        return True


def install(*loggers: str) -> None:
    """Has every handler that there is mask tokens, once.

    Call it when logging is configured: under uvicorn that is while the application is imported.
    Handlers that come later are not covered; put :class:`MaskTokens` into their configuration.

    Args:
        loggers: Only the handlers of these; of all, if none is named. "" is the root logger.
    """
    known = logging.root.manager.loggerDict
    named = loggers or ("", *known)
    found = [logging.getLogger(name) for name in named if name == "" or name in known]
    handlers = {handler for logger in found for handler in logger.handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)  # writes what no handler does
    for handler in handlers:
        if not any(isinstance(each, MaskTokens) for each in handler.filters):
            handler.addFilter(MaskTokens())


def mask_tokens(
    logger: object,  # noqa: ARG001 - structlog passes it
    method_name: str,  # noqa: ARG001 - likewise
    event_dict: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """Masks tokens in an event of structlog.

    Put it last but one among the processors, in front of the renderer, so that nothing comes
    behind it that could hold a token. An exception that holds one becomes its masked text.
    """
    try:
        exc_info = event_dict.get("exc_info")
        if exc_info and (text := _masked_exception(exc_info)) is not None:
            event_dict["exception"] = text
            del event_dict["exc_info"]
        fields = dict(event_dict)
        masked = _Masking().value(fields)
        if masked is not fields:
            event_dict.clear()
            event_dict.update(masked)
    except Exception:  # noqa: BLE001 - whatever an object raises that wants to be logged
        event_dict.clear()
        event_dict["event"] = _WITHHELD
    return event_dict


def _mask_record(record: logging.LogRecord) -> None:
    fields = record.__dict__
    if record.exc_info and (text := _masked_exception(record.exc_info)) is not None:
        # Without the exception itself: handlers that show it in their own way show the token.
        record.exc_info, record.exc_text = None, text
    masking = _Masking()
    for name, value in list(fields.items()):
        if name == "exc_info":
            continue
        # Of a type of its own it would be shown as one text, and fit no message.
        plain = _plain(value) if name == "args" else value
        masked = masking.value(plain)
        if masked is not plain:
            fields[name] = masked
        if (shown := mask(name)) is not name:
            fields[shown] = fields.pop(name)
    if record.args:
        _mask_message(record)


def _plain(args: Any) -> Any:
    if isinstance(args, Mapping):
        return args if type(args) is dict else dict(args)
    return tuple(args) if isinstance(args, tuple) else args


def _mask_message(record: logging.LogRecord) -> None:
    """Masks what is a token only once the arguments are in their places."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - logging tells of it, with what is masked by now
        return
    masked = mask(message)
    if masked is not message:
        record.msg, record.args = masked, None


def _withhold(record: logging.LogRecord) -> None:
    record.msg, record.args = _WITHHELD, None
    record.exc_info = record.exc_text = record.stack_info = None
    standard = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime"}
    for name in list(record.__dict__.keys() - standard):
        del record.__dict__[name]


def _masked_exception(exc_info: Any) -> str | None:
    """The traceback with its tokens masked; None if it holds none."""
    if exc_info is True:
        exc_info = sys.exc_info()
    elif isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if not isinstance(exc_info, tuple) or not isinstance(exc_info[1], BaseException):
        return None
    text, args = _traceback(exc_info[1], exc_info[2]), exc_info[1].args
    masked = mask(text)
    # Handlers that ask the exception itself show its arguments.
    return None if masked is text and _Masking().value(args) is args else masked


def _traceback(error: BaseException, trace: TracebackType | None) -> str:
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception:  # noqa: BLE001 - its own text may raise
        return f"{type(error).__name__}: {_WITHHELD}"
    return "".join(lines).rstrip("\n")


class _Shown:
    """Stands for an object whose texts are better not shown."""

    def __init__(self, text: str, representation: str) -> None:
        self._text = text
        self._representation = representation

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._representation

    def __format__(self, specification: str) -> str:
        return format(self._text, specification)


class _Masking:
    """Masks a value, and what is in it, once. What holds no token stays the object that it is."""

    def __init__(self) -> None:
        self._depth = 0
        self._done: dict[int, tuple[Any, Any]] = {}

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            return mask(value)
        if kind in _PLAIN:
            return value
        if kind is bytes:
            return mask_bytes(value)
        if kind not in _REBUILT:
            return _shown(value)
        # Of what is in itself the inner one is withheld; and nothing is looked at twice.
        _, done = self._done.get(id(value), (None, _UNSEEN))
        if done is not _UNSEEN:
            return done
        self._done[id(value)] = (value, _WITHHELD)
        self._depth += 1
        masked = _WITHHELD if self._depth > _DEEPEST else self._within(value, kind)
        self._depth -= 1
        self._done[id(value)] = (value, masked)
        return masked

    def _within(self, value: Any, kind: type) -> Any:
        items = list(value.items() if kind is dict else [value] if kind is bytearray else value)
        masked: list[Any]
        if kind is dict:
            masked = [(self.value(key), self.value(item)) for key, item in items]
            same = all(a is c and b is d for (a, b), (c, d) in zip(masked, items, strict=True))
        elif kind is bytearray:
            masked = list(mask_bytes(bytes(value)))
            same = bytes(masked) == value
        else:
            masked = [self.value(item) for item in items]
            same = all(one is other for one, other in zip(masked, items, strict=True))
        return value if same else kind(masked)


_UNSEEN: Final = object()
_REBUILT: Final = (dict, list, tuple, set, frozenset, bytearray)


def _shown(value: Any) -> Any:
    """An object, or what stands for it if one of its texts holds a token, or cannot be had."""
    if isinstance(value, logging.LogRecord):  # structlog has it beside its own events
        _mask_record(value)
        return value
    texts, masked = [], []
    for show in (str, repr):
        try:
            text = show(value)
        except Exception:  # noqa: BLE001 - what it says may hold a token, too
            text = None
        texts.append(text)
        masked.append(_WITHHELD if text is None else mask(text))
    same = all(one is other for one, other in zip(masked, texts, strict=True))
    return value if same else _Shown(*masked)
