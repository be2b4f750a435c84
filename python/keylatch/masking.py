"""Masks tokens in whatever is logged: a filter for ``logging``, and a processor for structlog.

What stays is ``acme_live_<key id>_***``, by which a key can still be found. Knows what a record is,
and not how a value is masked; never keeps a record from being logged.
"""

import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from types import TracebackType
from typing import Any

from keylatch._native import mask
from keylatch.masked import WITHHELD, Masking


class MaskTokens(logging.Filter):
    """Masks tokens in what handlers write of a record; lets every record pass.

    That is its message and arguments, also where they make a token only together, the text of its
    exception with the traceback, the stack, and whatever ``extra`` adds. What holds no token stays
    the object that it is. What stands for another one has its texts, its items if it is derived
    from a dict, list, tuple or str, and its fields if it is a dataclass or a model of pydantic.
    Where something cannot be looked at, or lies more than 32 levels deep, a note stands for it.

    Not masked are other attributes of objects, such as those of a request, and the local variables
    of the functions in a traceback: an exception whose text and arguments hold no token stays one.
    Have no tool show these, as Rich's handler does with ``tracebacks_show_locals``.

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
    behind it that could hold a token. An exception becomes its text, masked, since a renderer would
    show local variables beside it, as ``ConsoleRenderer`` does; and what a processor in front of
    this one makes of an exception, such as ``dict_tracebacks``, is masked where it is. So is what
    the ``__structlog__`` of an object tells, which ``JSONRenderer`` writes instead of its text.
    """
    try:
        if (raised := _raised(event_dict.get("exc_info"))) is not None:
            event_dict["exception"] = mask(_traceback(*raised))
            del event_dict["exc_info"]
        for each in event_dict.values():
            # Beside events that come from ``logging``. A proxy may not say what it stands for.
            if issubclass(type(each), logging.LogRecord):
                _mask_record(each)
        fields = dict(event_dict)
        masked = Masking().masked(fields)
        if masked is not fields:
            event_dict.clear()
            event_dict.update(masked)
    except Exception:  # noqa: BLE001 - whatever an object raises that wants to be logged
        event_dict.clear()
        event_dict["event"] = WITHHELD
    return event_dict


def _mask_record(record: logging.LogRecord) -> None:
    fields = record.__dict__
    if record.exc_info and (text := _masked_exception(record.exc_info)) is not None:
        # Without the exception itself: handlers that show it in their own way show the token.
        record.exc_info, record.exc_text = None, text
    masking = Masking()
    for name, value in list(fields.items()):
        if name == "exc_info":
            continue
        # Another mapping would be shown as one text, and fit no message.
        mapping = name == "args" and isinstance(value, Mapping) and not isinstance(value, dict)
        plain = dict(value) if mapping else value
        masked = masking.masked(plain)
        if masked is not plain:
            fields[name] = masked
        if (shown := mask(name)) is not name:
            fields[shown] = fields.pop(name)
    if record.args:
        _mask_message(record)


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
    record.msg, record.args = WITHHELD, None
    record.exc_info = record.exc_text = record.stack_info = None
    standard = logging.makeLogRecord({}).__dict__.keys() | {"message", "asctime"}
    for name in list(record.__dict__.keys() - standard):
        del record.__dict__[name]


def _masked_exception(exc_info: Any) -> str | None:
    """The traceback with its tokens masked; None if it holds none."""
    if (raised := _raised(exc_info)) is None:
        return None
    text, args = _traceback(*raised), raised[0].args
    masked = mask(text)
    # Handlers that ask the exception itself show its arguments.
    return None if masked is text and Masking().masked(args) is args else masked


def _raised(exc_info: Any) -> tuple[BaseException, TracebackType | None] | None:
    """What was raised, and where. Whatever else is true means what is being handled now."""
    if not exc_info:
        return None
    if isinstance(exc_info, BaseException):
        return exc_info, exc_info.__traceback__
    for given in (exc_info, sys.exc_info()):
        match given:
            case (_, BaseException() as error, trace):
                return error, trace
    return None


def _traceback(error: BaseException, trace: TracebackType | None) -> str:
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception:  # noqa: BLE001 - its own text may raise
        return f"{type(error).__name__}: {WITHHELD}"
    return "".join(lines).rstrip("\n")
