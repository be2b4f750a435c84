"""An imported token shows nowhere: in no error, log, repr, pickle or file."""

import contextlib
import copy
import pickle
from pathlib import Path

import pytest
import rich.pretty
import sqlalchemy as sa
from canaries import Canaries, pickled
from imports import OLD, collection
from test_leaks import forced, logs

from keylatch import KeyRequest
from keylatch.importing import TokenToImport
from keylatch.sqlalchemy import SQLAlchemyStore

pytestmark = pytest.mark.anyio

__all__ = ["logs"]


@pytest.fixture
def canaries(secret: str) -> Canaries:
    """The server secret and the token."""
    canaries = Canaries(secret)
    canaries.add_text(OLD)
    return canaries


@pytest.fixture
async def keys(tmp_path: Path, secret: str, clock):
    """A collection with that key and a revoked one, in a SQLite file."""
    store = SQLAlchemyStore(f"sqlite+aiosqlite:///{tmp_path / 'keys.db'}")
    async with collection(store, secret, clock=clock) as keys:
        await keys.import_token(OLD, name="ci")
        await keys.revoke((await keys.import_token(f"{OLD}2", name="ci")).id)
        yield keys
    await store.close()


def calls(keys, tokens):
    """Calls that each fail; the tokens are handed over so that no frame of the test has them."""
    many = [TokenToImport(keys.read_imported(f"{OLD}4"), KeyRequest(name=""))]
    return [
        lambda: collection(imported_tokens=False).import_token(tokens.pop(), name="ci"),
        lambda: keys.import_token(tokens.pop(), name="ci"),
        lambda: keys.import_token(tokens.pop(), name="ci", weak=True),
        lambda: keys.import_token(tokens.pop() + "3", name=""),
        lambda: keys.import_token(tokens.pop() + "3", name="ci", scopes=["a b"]),
        lambda: keys.import_token(tokens.pop() + "\ud800", name="ci"),
        lambda: keys.import_token(tokens.pop() + "é", name="ci"),
        lambda: keys.import_token(tokens.pop() * 20, name="ci"),
        lambda: keys.import_token(tokens.pop().encode(), name="ci"),
        lambda: keys.import_token(tokens.pop() + "3", name="ci", connection=object()),
        lambda: keys.import_many(many),
        lambda: keys.verify(tokens.pop() + "3"),
        lambda: keys.verify(tokens.pop() + "2"),
        lambda: keys.verify(tokens.pop() + "é"),
        lambda: keys.verify(tokens.pop(), scopes=["a"]),
        lambda: collection(imported_tokens=False).verify(tokens.pop()),
        lambda: collection(unsealed_lookups=0).verify(tokens.pop()),
    ]


async def test_no_error_shows_it(keys, canaries, logs):
    """Refusals and misuse: no message, attribute, pickle, traceback or log."""
    for call in calls(keys, Hidden()):
        canaries.assert_absent_from_error(await forced(call))
    canaries.assert_absent("the logs", logs())


class Hidden:
    """Gives the token as often as it is asked to, and does not show it."""

    def pop(self) -> str:
        """The token."""
        return OLD


@pytest.mark.parametrize("fault", ["DROP TABLE api_keys", "DROP TABLE api_key_events"])
async def test_no_database_error_shows_it(keys, canaries, logs, fault):
    """The database breaks under every call, also where argon2id is asked for."""
    async with keys._store._database.engine.begin() as connection:
        await connection.execute(sa.text(fault))
    hidden, failed = Hidden(), 0
    many = [TokenToImport(keys.read_imported(f"{OLD}4"), KeyRequest(name="ci"))] * 2
    for call in (
        lambda: keys.import_token(hidden.pop() + "3", name="ci"),
        lambda: keys.import_token(hidden.pop() + "3", name="ci", weak=True),
        lambda: keys.import_many(many),
        lambda: keys.import_many(many[:1]),
        lambda: keys.verify(hidden.pop() + "3"),
    ):
        with contextlib.suppress(pytest.fail.Exception):
            canaries.assert_absent_from_error(await forced(call))
            failed += 1
    assert failed >= 4
    canaries.assert_absent("the logs", logs())


async def test_a_bug_in_a_store_shows_neither_it_nor_its_hash(keys, canaries, monkeypatch):
    """It passes through our frames, which hold nothing worth stealing."""

    async def bug(*_, **__):
        raise RuntimeError("a bug")

    stored = (await keys._store.load(keys.read_imported(OLD).key_id)).hash
    hidden = Hidden()
    for name in ("existing", "insert", "load"):
        monkeypatch.setattr(keys._store, name, bug)
        for call in (
            lambda: keys.import_token(hidden.pop() + "3", name="ci"),
            lambda: keys.import_token(hidden.pop() + "3", name="ci", weak=True),
        ):
            error = await forced(call)
            canaries.assert_absent_from_error(error)
            assert "a bug" in str(error)
    assert stored not in repr(keys)


async def test_no_object_shows_it(keys, canaries):
    """No repr, format, copy or pickle."""
    token = keys.read_imported(OLD)
    request = TokenToImport(token, KeyRequest(name="ci"))
    for value in (token, request, [request], await keys.get(token.key_id)):
        for text in (repr(value), str(value), f"{value}", rich.pretty.pretty_repr(value)):
            canaries.assert_absent(type(value).__name__, text)
        canaries.assert_absent(f"the pickle of {type(value).__name__}", pickled(value))
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            copying(token)


async def test_no_database_file_holds_it(keys, canaries, tmp_path):
    """What is on disk yields no token: neither the file nor its log."""
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert b"$hmac-sha256$" in content
    assert keys.read_imported(OLD).key_id.encode() in content
    canaries.assert_absent("the database's files", content)
