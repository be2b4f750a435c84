"""Masking: a token shows in no log, wherever in a record it stands, and no record is lost."""

import io
import json
import logging
import logging.config
import subprocess
import sys
import threading
from collections import UserDict, deque
from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import httpx2
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from logged import MASKED, TOKEN, assert_masked

from keylatch._native import mask, mask_bytes
from keylatch.masking import MaskTokens, install, mask_tokens


class Pair(NamedTuple):
    """A tuple of a type of its own."""

    one: object
    other: object


@dataclass
class Holder:
    """An object whose texts show what it holds."""

    held: object


class Sly:
    """An object that shows the token in one of its texts only."""

    def __init__(self, where):
        self.where = where

    def __str__(self):
        return f"sly {TOKEN}" if self.where == "str" else "sly"

    def __repr__(self):
        return f"<Sly {TOKEN}>" if self.where == "repr" else "<Sly>"


class Broken:
    """An object that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Everything(logging.Handler):
    """Keeps all that a handler can see of a record, in every way there is."""

    def __init__(self):
        super().__init__()
        self.shown = []
        self.records = []
        self.addFilter(MaskTokens())

    def emit(self, record):
        """Keeps it."""
        self.records.append(record)
        self.shown.append(repr(vars(record)))
        if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            self.shown.append(f"{record.exc_info[1]} {record.exc_info[1]!r}")
        self.shown.append(self.format(record))


@pytest.fixture
def handler():
    """One with the filter, of a logger of its own."""
    handler = Everything()
    logger = logging.getLogger("masking")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


def log(handler, message, *arguments, **options):
    """Logs something. Returns the record as it was written."""
    logging.getLogger("masking").error(message, *arguments, **options)
    assert_masked("".join(handler.shown))
    return handler.records[-1]


texts = st.one_of(
    st.just(TOKEN),
    st.builds("{}{}{}".format, st.text(max_size=9), st.just(TOKEN), st.text(max_size=9)),
    st.sampled_from([f"/items?key={TOKEN}&x=1", f"{TOKEN[:-30]}...", f"\ud800{TOKEN}"]),
)
leaves = st.one_of(
    texts,
    texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    texts.map(lambda text: bytearray(text.encode("utf-8", "surrogatepass"))),
    st.sampled_from([Sly("str"), Sly("repr"), 1, 2.5, None, True]),
    st.builds(Broken),
    texts.map(ValueError),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(deque),
        st.dictionaries(texts, inner, max_size=3),
        st.dictionaries(texts, inner, max_size=3).map(UserDict),
        inner.map(Holder),
        inner.map(lambda value: Pair(value, value)),
        inner.map(lambda value: SimpleNamespace(a=value)),
        st.frozensets(texts, max_size=2),
    ),
    max_leaves=5,
)


def raised(value, cause=None):
    """An exception with a token in its text, its cause, its notes and its lines."""
    try:
        raise ValueError(value) from cause  # noqa: TRY301 - for its traceback
    except ValueError as error:
        error.add_note(f"note {TOKEN}")
        return error


@settings(max_examples=1000)
@given(
    message=st.one_of(st.just("%s"), texts.map(lambda text: text.replace("%", "")), values),
    arguments=st.lists(values, max_size=2),
    extra=st.dictionaries(
        st.one_of(st.sampled_from(["user", "request"]), st.just(TOKEN)), values, max_size=2
    ),
    error=st.one_of(st.none(), values),
    stack=st.booleans(),
)
def test_no_place_of_a_record_shows_a_token(message, arguments, extra, error, stack):
    """Message, arguments, exception, stack and whatever is added, nested and of any type."""
    handler = Everything()
    record = logging.LogRecord(
        f"name {TOKEN}", 40, f"/{TOKEN}.py", 1, message, tuple(arguments), None, TOKEN
    )
    record.__dict__.update(extra)
    record.taskName = TOKEN
    if error is not None:
        problem = raised(TOKEN, raised(error))
        record.exc_info = (type(problem), problem, problem.__traceback__)
    if stack:
        record.stack_info = f"Stack\n  {TOKEN}"
    assert handler.filter(record)
    shown = [repr(vars(record))]
    try:
        shown.append(logging.Formatter("%(name)s %(message)s").format(record))
    except Exception as problem:  # noqa: BLE001 - what cannot be formatted cannot without us either
        shown.append(f"{problem}")
    assert_masked("".join(shown))


def test_what_holds_no_token_stays_what_it_is(handler):
    """The same objects, so that formatters find what they look for."""
    holder, mapping = Holder("x"), {"a": [1, (2,)]}
    record = log(handler, "%s %s", holder, mapping, extra={"user": mapping})
    assert record.args[0] is holder
    assert record.args[1] is record.user is mapping
    record = log(handler, "x", exc_info=ValueError("x"))
    assert isinstance(record.exc_info[1], ValueError)


def test_what_is_masked_keeps_its_key_id_its_type_and_its_place(handler):
    """So that logs stay of use, and formatters that take arguments apart go on."""
    record = log(handler, "%s %s", TOKEN, 7, extra={"data": {TOKEN: [TOKEN.encode(), (TOKEN,)]}})
    assert record.args == (MASKED, 7)
    assert record.data == {MASKED: [MASKED.encode(), (MASKED,)]}
    assert f"{MASKED} 7" in handler.shown[-1]
    record = log(handler, "%(a)s", {"a": TOKEN})
    assert record.args == {"a": MASKED}
    record = log(handler, "%r %-60s|", Sly("repr"), Sly("str"))
    assert record.getMessage() == f"<Sly {MASKED}> {f'sly {MASKED}':<60}|"


def test_a_token_made_by_the_message_is_masked(handler):
    """Its parts are arguments, none of which is one."""
    key_id, _, rest = TOKEN.removeprefix("acme_live_").partition("_")
    record = log(handler, "acme_live_%s_%s", key_id, rest)
    assert (record.getMessage(), record.args) == (MASKED, None)
    for cut in range(len(TOKEN) - 54, len(TOKEN)):
        record = log(handler, "%s%s", TOKEN[:cut], TOKEN[cut:])
        assert_masked(record.getMessage())


def test_an_exception_is_shown_masked(handler):
    """With its traceback, and not to handlers that would show it in their own way."""
    record = log(handler, "oops", exc_info=raised(f"bad {TOKEN}"), stack_info=True)
    assert record.exc_info is None
    assert f"ValueError: bad {MASKED}" in handler.shown[-1]
    assert "Traceback (most recent call last)" in handler.shown[-1]


def test_no_record_is_lost_and_none_stalls_the_logger(handler, capsys):
    """What raises, what holds itself, and what is nested without an end."""
    circle = [TOKEN]
    circle.append(circle)
    mapping = {"a": TOKEN}
    mapping["b"] = mapping
    deep = TOKEN
    for _ in range(100_000):
        deep = [deep]
    wide = [TOKEN]
    for _ in range(60):
        wide = [wide, wide]
    extra = {"circle": circle, "mapping": mapping, "deep": deep, "wide": wide}
    record = log(handler, "%s", circle, extra={name: extra[name] for name in ("circle", "mapping")})
    assert MASKED in record.getMessage()
    record = logging.makeLogRecord({"msg": "x", **extra})
    assert handler.filter(record)
    assert record.getMessage() == "x"

    class Worst(dict):
        def __iter__(self):
            raise RuntimeError(TOKEN)

        items = keys = values = __str__ = __repr__ = __iter__

    plain = logging.StreamHandler()
    plain.addFilter(MaskTokens())
    for arguments in ((Worst(),), (Broken(),), (1, 2, 3), ("%s", TOKEN)):
        plain.handle(logging.LogRecord("x", 40, "x", 1, f"{TOKEN} %s", arguments, None))
    told = capsys.readouterr().err
    assert told.count(f"{MASKED} *** (withheld: it could not be masked)\n") == 2
    # Wrong arguments are told of, as logging does, and what they were is masked.
    assert told.count("--- Logging error ---") == 2
    assert_masked(told)


def test_install_reaches_every_handler_once():
    """Those of the root logger, of the others, and the one for programs without any."""
    logger = logging.getLogger("installed.masking")
    handlers = [logging.StreamHandler(io.StringIO()) for _ in range(2)]
    logger.addHandler(handlers[0])
    logging.getLogger().addHandler(handlers[1])
    try:
        for _ in range(2):
            install()
        for handler in (*handlers, logging.lastResort):
            assert [type(each) for each in handler.filters] == [MaskTokens]
        logger.error("%s", TOKEN)
        assert [handler.stream.getvalue() for handler in handlers] == [f"{MASKED}\n"] * 2
        install("masking.nowhere", "")
    finally:
        logger.removeHandler(handlers[0])
        logging.getLogger().removeHandler(handlers[1])
        for named in (logging.getLogger(), logging.lastResort):
            for handler in getattr(named, "handlers", [named]):
                for each in [one for one in handler.filters if isinstance(one, MaskTokens)]:
                    handler.removeFilter(each)


def test_a_configuration_names_the_filter():
    """As ``dictConfig`` and uvicorn's ``--log-config`` take it."""
    stream = io.StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"tokens": {"()": "keylatch.masking.MaskTokens"}},
            "handlers": {
                "x": {"class": "logging.StreamHandler", "stream": stream, "filters": ["tokens"]}
            },
            "loggers": {"masking.configured": {"handlers": ["x"], "propagate": False}},
        }
    )
    logging.getLogger("masking.configured").error("%s", TOKEN)
    assert stream.getvalue() == f"{MASKED}\n"


APP = """
import logging
from keylatch import masking
masking.install()

async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/error":
        raise ValueError(scope["query_string"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})
"""


def test_the_access_log_of_uvicorn_is_masked(tmp_path, free_port):
    """A real server, asked with a token in the query string: its log has the key id alone."""
    (tmp_path / "served.py").write_text(APP)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "served:app", "--port", str(free_port)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        while "Uvicorn running" not in (line := process.stdout.readline()):
            assert line
        url = f"http://127.0.0.1:{free_port}"
        assert httpx2.get(f"{url}/items?key={TOKEN}").status_code == 200
        assert httpx2.get(f"{url}/error?key={TOKEN}").status_code == 500
    finally:
        process.terminate()
        shown = process.communicate()[0]
    assert f'"GET /items?key={MASKED} HTTP/1.1" 200' in shown
    assert f"ValueError: b'key={MASKED}'" in shown
    assert_masked(shown)


@pytest.fixture
def structured():
    """A logger of structlog that writes JSON, with the processor in front of the renderer."""
    output = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(output),
        processors=[structlog.processors.add_log_level, mask_tokens, json_lines],
    )
    return logger, output


def json_lines(logger, name, event):
    """Renders an event whatever is in it."""
    return json.dumps(event, default=str)


def test_structlog_events_are_masked(structured):
    """Event, values, nested ones and keys; an exception becomes its masked text."""
    logger, output = structured
    bound = logger.bind(user={"key": [TOKEN]}, plain=1)
    bound.warning(f"used {TOKEN}", data=TOKEN.encode(), **{TOKEN: "x"})
    error = raised(TOKEN)
    try:
        raise error
    except ValueError:
        bound.exception("oops")
    bound.error("oops", exc_info=error)
    bound.error("oops", exc_info=(type(error), error, error.__traceback__))
    bound.error("oops", exc_info=True)
    bound.error("oops", broken=Broken)
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert lines[0] == {
        "user": {"key": [MASKED]},
        "plain": 1,
        "data": str(MASKED.encode()),
        MASKED: "x",
        "event": f"used {MASKED}",
        "level": "warning",
    }
    for line in lines[1:4]:
        assert f"ValueError: {MASKED}" in line["exception"]
        assert "exc_info" not in line
    assert lines[4]["exc_info"] is True
    assert_masked(output.getvalue())


def test_structlog_through_logging_is_masked():
    """Where structlog formats for ``logging``, what is beside its events is masked as well."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                mask_tokens,
                structlog.processors.JSONRenderer(),
            ],
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), mask_tokens],
        )
    )
    logger = logging.getLogger("masking.structlog")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        logger.error("%s", TOKEN, extra={"user": TOKEN})
    finally:
        logger.removeHandler(handler)
    assert json.loads(stream.getvalue()) == {"event": MASKED, "user": MASKED}


def test_mask_returns_what_it_was_given_where_there_is_nothing_to_mask():
    """The same object; and halves of characters are no obstacle."""
    for text in ("", "x", "\ud800", "caf\u00e9" * 99, "acme_live_"):
        assert mask(text) is text
        assert mask(f"{text} {TOKEN}\ud800") == f"{text} {MASKED}\ud800"
    data = b"\xff\x00"
    assert mask_bytes(data) is data
    assert mask_bytes(data + TOKEN.encode() + data) == data + MASKED.encode() + data


def test_threads_may_log_at_once(handler):
    """Nothing is shared."""
    logger = logging.getLogger("masking")
    work = [
        threading.Thread(target=lambda: [logger.error("%s", [TOKEN]) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert {record.getMessage() for record in handler.records} == {f"['{MASKED}']"}
    assert len(handler.records) == 800
