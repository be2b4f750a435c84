"""Masking of objects: what a handler writes of one as JSON shows no token, nor does its text.

And what is out of the filter's reach: the local variables of a traceback.
"""

import dataclasses
import io
import json
import logging
import sys
import weakref
from collections import OrderedDict, defaultdict
from enum import StrEnum
from typing import Any, NamedTuple

import pytest
import structlog
from logged import MASKED, TOKEN, assert_masked
from pydantic import BaseModel, Field
from rich.console import Console
from rich.logging import RichHandler
from starlette.requests import Request

from keylatch.masked import WITHHELD
from keylatch.masking import MaskTokens, mask_tokens


@dataclasses.dataclass
class Hidden:
    """A dataclass that keeps a field out of its own texts."""

    url: str
    held: Any = dataclasses.field(repr=False)


@dataclasses.dataclass(slots=True)
class Slotted(Hidden):
    """The same without a ``__dict__`` for its own field."""

    own: Any = dataclasses.field(repr=False, default=None)


class Model(BaseModel):
    """The same of pydantic."""

    url: str
    held: Any = Field(repr=False)


class Quiet:
    """Says nothing of what it is."""

    def __repr__(self):
        return "<quiet>"

    __str__ = __repr__


class QuietDict(Quiet, dict):
    """A dict with texts of its own."""


class QuietList(Quiet, list):
    """A list likewise."""


class QuietTuple(Quiet, tuple):  # noqa: SLOT001 - as users write them
    """A tuple likewise."""


class QuietText(Quiet, str):  # noqa: SLOT000 - likewise
    """A text likewise."""


class Level(StrEnum):
    """An enumeration of texts."""

    HELD = TOKEN


class Pair(NamedTuple):
    """A tuple whose text shows what it holds."""

    one: Any
    other: Any


def plain(value):
    """What JSON cannot say, as handlers put it."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return value.model_dump() if isinstance(value, BaseModel) else str(value)


class JSONLines(logging.Handler):
    """Writes all of a record as JSON, and keeps it."""

    def __init__(self):
        super().__init__()
        self.addFilter(MaskTokens())

    def emit(self, record):
        """Writes it."""
        self.record = record
        self.written = json.loads(json.dumps(vars(record), default=plain))


@pytest.fixture
def written(monkeypatch):
    """Logs, and returns the record with what was written of it."""
    handler = JSONLines()
    logger = logging.getLogger("masking.objects")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)

    def log(message, *arguments, **options):
        logger.error(message, *arguments, **options)
        assert_masked(f"{handler.written} {vars(handler.record)} {handler.format(handler.record)}")
        return handler.record, handler.written

    return log


HOLDING = {
    "a dataclass": lambda held: Hidden("/", held),
    "a dataclass with slots": lambda held: Slotted("/", 1, held),
    "a model of pydantic": lambda held: Model(url="/", held=held),
    "a dict": lambda held: QuietDict(a=held),
    "a list": lambda held: QuietList([held]),
    "a tuple": lambda held: QuietTuple([held]),
}


@pytest.mark.parametrize("inner", ["a token", *HOLDING])
@pytest.mark.parametrize("outer", HOLDING)
def test_what_the_text_of_an_object_hides_is_masked(written, outer, inner):
    """In whatever is written as JSON, however it is nested, as an argument and beside it."""
    held = {"x": [TOKEN]}
    value = HOLDING[outer](HOLDING[inner](held) if inner in HOLDING else held)
    record, _ = written("%s", value, extra={"user": value})
    # Its own text is what it was.
    assert record.getMessage() == str(value)


def test_texts_that_are_more_than_texts_are_masked(written):
    """Whether they show what they are or not, and as keys."""
    _, line = written("x", extra={"a": QuietText(TOKEN), "b": {QuietText(TOKEN): Level.HELD}})
    assert (line["a"], line["b"]) == (MASKED, {MASKED: MASKED})


def test_what_stands_for_an_object_is_written_like_it(written):
    """As JSON with the same items, so that no record is lost to what cannot be serialised."""
    extra = {
        "ordered": OrderedDict(a=TOKEN, b=1),
        "default": defaultdict(list, a=[TOKEN]),
        "pair": Pair(TOKEN, 2),
        "quiet": QuietList([1, {"a": TOKEN}]),
    }
    record = logging.makeLogRecord({"msg": "x", **extra})
    assert MaskTokens().filter(record)
    assert json.loads(json.dumps({name: vars(record)[name] for name in extra})) == {
        "ordered": {"a": MASKED, "b": 1},
        "default": {"a": [MASKED]},
        "pair": [MASKED, 2],
        "quiet": [1, {"a": MASKED}],
    }
    record, _ = written("%s %r", Hidden("/items", TOKEN), Model(url="/", held=TOKEN))
    assert (record.args[0].url, record.args[0].held) == ("/items", MASKED)
    assert (record.args[1].url, record.args[1].held) == ("/", MASKED)
    assert record.getMessage() == "Hidden(url='/items') Model(url='/')"


class Lazy:
    """Is loaded when it is asked for, as an ORM does it."""

    def __get__(self, instance, owner):
        if instance is None:
            return self
        raise AssertionError("asked for")


def test_objects_without_a_token_are_the_same_and_are_not_disturbed():
    """Even if they hold themselves, or would load something.

    So is a request, though it has its headers, since formatters ask it for more.
    """
    circle = Hidden("/", None)
    circle.held = [circle]
    lazy = Hidden("/", None)
    del lazy.held
    scope = {"type": "http", "path": "/items", "headers": [(b"x-api-key", TOKEN.encode())]}
    extra = {
        "circle": circle,
        "request": Request(scope),
        "items": [each("x") for each in HOLDING.values()],
        "kind": Hidden,
    }
    record = logging.makeLogRecord({"msg": "%s", "args": (QuietText("x"),), **extra})
    argument = record.args[0]
    assert MaskTokens().filter(record)
    assert record.args[0] is argument
    assert all(vars(record)[name] is value for name, value in extra.items())
    assert circle.held == [circle]
    Hidden.held = Lazy()
    try:
        record = logging.makeLogRecord({"msg": "x", "lazy": lazy})
        assert MaskTokens().filter(record)
        assert (record.msg, record.lazy) == ("x", lazy)
    finally:
        del Hidden.held


class Alike(type):
    """A metaclass whose classes say that they are any other one."""

    def __eq__(cls, other):
        return True

    __hash__ = type.__hash__


class Posing(metaclass=Alike):
    """Says that it is of every type, and shows a token."""

    def __repr__(self):
        return TOKEN


def test_an_object_is_masked_whatever_its_type_says_it_equals(written):
    """A type is the one that it is, and not one that it calls equal."""
    record, line = written("%s", Posing(), extra={"a": Posing(), "b": [Posing()]})
    assert (record.getMessage(), line["a"], line["b"]) == (MASKED, MASKED, [MASKED])


class Unbound:
    """Stands for something that is not there outside of its context, and says so."""

    __slots__ = ("__weakref__",)

    def __getattr__(self, name):
        raise RuntimeError("outside of its context")

    def __repr__(self):
        return "<unbound>"


class Locked(dict):
    """Cannot be looked into."""

    def __iter__(self):
        raise RuntimeError("locked")

    def __repr__(self):
        return "<locked>"

    keys = __iter__


def test_only_what_cannot_be_looked_at_is_withheld(written):
    """And not the record that it comes with, of ``logging`` or of structlog."""
    unbound = Unbound()
    dead = weakref.proxy(Unbound())
    extra = {"a": unbound, "b": dead, "c": Locked(x=1), "d": [Locked(x=1)], "e": [unbound, TOKEN]}
    record = logging.makeLogRecord({"msg": "important %s", "args": (7,), **extra})
    assert MaskTokens().filter(record)
    event = mask_tokens(None, "info", {"event": "important 7", **extra})
    for fields in (vars(record) | {"event": record.getMessage()}, event):
        assert fields["event"] == "important 7"
        assert fields["a"] is unbound
        assert [str(fields["b"]), fields["c"], fields["d"]] == [WITHHELD, WITHHELD, [WITHHELD]]
        assert fields["e"] == [unbound, MASKED]


class Hashed:
    """Can be a key, whatever it holds."""

    def __hash__(self):
        return 1


class HashedDict(Hashed, dict):
    """A dict that can be one."""


class HashedList(Hashed, list):
    """A list likewise."""


class HashedTuple(Hashed, tuple):  # noqa: SLOT001 - as users write them
    """A tuple likewise."""


@pytest.mark.parametrize(
    "key",
    [
        HashedDict(a=TOKEN),
        HashedList([TOKEN]),
        HashedTuple([[TOKEN]]),
        (HashedDict(a=TOKEN), 1),
    ],
    ids=["a dict", "a list", "a tuple", "in a tuple"],
)
def test_what_holds_a_token_is_masked_as_a_key_too(key):
    """What stands for it can be one, and an item of a set."""
    record = logging.makeLogRecord({"msg": "x", "user": {key: 1}, "users": {key}})
    assert MaskTokens().filter(record)
    shown = str(key).replace(TOKEN, MASKED)
    assert (record.msg, str(record.user), str(record.users)) == (
        "x",
        f"{{{shown}: 1}}",
        f"{{{shown}}}",
    )


def fails(token):
    """Raises what says nothing of its local variable."""
    raise ValueError(f"{len(token)} characters")


def logged_by_rich(**options):
    """What Rich writes of that."""
    stream = io.StringIO()
    handler = RichHandler(console=Console(file=stream, width=500), **options)
    handler.addFilter(MaskTokens())
    try:
        fails(TOKEN)
    except ValueError:
        handler.handle(logging.LogRecord("x", 40, "x", 1, "oops", (), sys.exc_info()))
    return stream.getvalue()


def test_local_variables_are_for_handlers_to_leave_out():
    """An exception stays one for handlers such as Rich's, which show none unless they are told to.

    Then a token shows, as the documentation says.
    """
    pretty = logged_by_rich(rich_tracebacks=True)
    assert f"ValueError: {len(TOKEN)} characters" in pretty
    assert "in fails" in pretty
    assert_masked(pretty)
    assert TOKEN[:60] in logged_by_rich(rich_tracebacks=True, tracebacks_show_locals=True)


@pytest.mark.parametrize(
    "processors",
    [
        [mask_tokens, structlog.dev.ConsoleRenderer()],
        [mask_tokens, structlog.processors.JSONRenderer()],
        [structlog.processors.dict_tracebacks, mask_tokens, structlog.processors.JSONRenderer()],
    ],
    ids=["console", "JSON", "dictionaries"],
)
@pytest.mark.parametrize("exc_info", [True, "yes", (None, None, None), "itself"])
def test_structlog_shows_no_local_variables(processors, exc_info):
    """Though its renderers would."""
    stream = io.StringIO()
    logger = structlog.wrap_logger(structlog.PrintLogger(stream), processors=processors)
    try:
        fails(TOKEN)
    except ValueError as error:
        logger.error("oops", exc_info=error if exc_info == "itself" else exc_info)
    shown = stream.getvalue()
    assert "ValueError" in shown
    assert "fails" in shown
    assert_masked(shown)
