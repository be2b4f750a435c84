"""Sessions as applications have them: of several engines, and of one request each."""

import asyncio
from typing import Annotated

import pytest
import sqlalchemy as sa
import stores
from fastapi import Depends, FastAPI, HTTPException
from hosts import Base, Host, Transaction, User, settled
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from keylatch import APIKeys
from keylatch.errors import ConfigurationError
from keylatch.sqlalchemy import metadata

pytestmark = pytest.mark.anyio


@pytest.fixture
async def elsewhere(engine_name):
    """A second database of the same kind, which gets none of the keys."""
    with stores.key_database(engine_name) as url:
        async with Host.at(url) as elsewhere:
            await elsewhere.run(metadata.create_all)
            yield elsewhere


async def sign_up(session, keys, *, commits):
    """A user and a key, in one transaction of a session."""
    transaction = Transaction(session)
    await transaction.add("ada")
    try:
        new = await keys.create(name="ci", owner="ada", connection=session)
        assert await keys.get(new.key.id, connection=session) == new.key
        await (transaction.commit if commits else transaction.rollback)()
    finally:
        await settled(session.close())
    return new


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("bound", ["by keylatch's tables", "by its one engine for all else"])
async def test_a_session_of_several_engines_finds_that_of_the_keys(
    host, host_keys, elsewhere, bound, commits
):
    """Users are in one database and keys in another; both are committed or neither."""
    if bound == "by keylatch's tables":
        keys_table = metadata.tables["api_keys"]
        session = host.session(bind=None, binds={Base: elsewhere.engine, keys_table: host.engine})
    else:
        session = host.session(binds={User: elsewhere.engine})
    new = await sign_up(session, host_keys, commits=commits)
    assert [key.id for key in (await host_keys.list()).items] == [new.key.id] * commits
    assert (await elsewhere.rows())["users"] == [("ada",)] * commits
    assert (await host.rows())["users"] == (await elsewhere.rows())["keys"] == []


async def test_a_session_without_an_engine_for_the_keys_is_told_to_have_one(
    host, host_keys, elsewhere
):
    """Its transaction can go on."""
    session = host.session(bind=None, binds={User: elsewhere.engine})
    transaction = Transaction(session)
    await transaction.add("before")
    with pytest.raises(ConfigurationError, match="binds="):
        await host_keys.create(name="ci", connection=session)
    await transaction.add("after")
    await transaction.commit()
    await settled(session.close())
    assert (await elsewhere.rows())["users"] == [("after",), ("before",)]
    assert (await host_keys.list()).items == []


async def test_a_session_that_reads_elsewhere_writes_keys_where_it_writes(
    host, host_keys, elsewhere
):
    """And reads them there, since a copy knows nothing of what is not committed."""

    class Routed(Session):
        def get_bind(self, mapper=None, *, clause=None, **options):
            """As SQLAlchemy's documentation shows it for a database and its copies."""
            writes = self._flushing or isinstance(clause, sa.UpdateBase)
            return host.core if writes else elsewhere.core

    session = AsyncSession(sync_session_class=Routed) if host.asynchronous else Routed()
    new = await sign_up(session, host_keys, commits=True)
    assert await host_keys.verify(new.token) == new.key
    assert (await host.rows())["users"] == [("ada",)]


async def test_routes_share_their_session_with_the_keys(host, secret, ask):
    """A session of either kind that an asynchronous route depends on carries user and key."""
    keys = APIKeys(host.engine, prefix="acme_live", secret=secret)
    app = FastAPI(lifespan=keys.lifespan)

    async def asynchronous_session():
        async with host.session() as session:
            yield session

    def synchronous_session():
        with host.session() as session:
            yield session

    depends = Depends(asynchronous_session if host.asynchronous else synchronous_session)

    @app.post("/users/{name}")
    async def sign_up(name: str, session: Annotated[object, depends]) -> str:
        session.add(User(name=name))
        new = await keys.create(name="ci", owner=name, connection=session)
        if name == "nobody":
            raise HTTPException(422)
        await settled(session.commit())
        return new.token

    async with keys.lifespan(app):
        answers = await asyncio.gather(
            *(ask(app, method="POST", path=f"/users/{name}") for name in ("ada", "nobody"))
        )
        assert [answer.status for answer in answers] == [200, 422]
        assert (await keys.verify(answers[0].body.decode().strip('"'))).owner == "ada"
        assert [key.owner for key in (await keys.list()).items] == ["ada"]
        assert (await host.rows())["users"] == [("ada",)]
