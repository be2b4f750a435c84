"""An application in uvicorn: one of several workers on one database.

Whoever has a key is told whether it opens ``b``; whoever knows the address may end keys, in a
transaction of the worker's own or of its host. As a program it serves on an inherited socket
(``worker.py DESCRIPTOR``), with the options that stand in the environment.
"""

import asyncio
import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Security
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from keylatch import APIKey, APIKeys
from keylatch.fastapi import APIKeyAuth

# What takes something from a key, and the status that it is answered with afterwards.
ENDINGS = {
    "revoke": (401, lambda keys, key_id, **own: keys.revoke(key_id, **own)),
    "rotate": (401, lambda keys, key_id, **own: keys.rotate(key_id, grace=timedelta(0), **own)),
    "narrow": (403, lambda keys, key_id, **own: keys.update(key_id, scopes=["a"], **own)),
}


def application(database: str, **options) -> FastAPI:
    """A worker on a database, with options of its collection."""
    engine = create_async_engine(database)
    keys = APIKeys(engine, prefix="acme_live", **options)
    app = FastAPI(lifespan=keys.lifespan)
    auth = APIKeyAuth(keys)

    @app.get("/")
    async def protected(key: Annotated[APIKey, Security(auth, scopes=["b"])]) -> str:
        return key.id

    @app.post("/{key_id}/{ending}")
    async def end(key_id: str, ending: str, hold: float = 0) -> None:
        make = ENDINGS[ending][1]
        if not hold:
            await make(keys, key_id)
            return
        async with AsyncSession(engine) as session:
            await make(keys, key_id, connection=session)
            await asyncio.sleep(hold)
            await session.commit()

    return app


def serve(listener: socket.socket, log: str, **options) -> None:
    """Serves in a process of its own that was forked, until it is told to stop."""
    with Path(log).open("ab") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    config = uvicorn.Config(application(**options), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def main() -> None:
    """Serves until it is told to stop."""
    options = json.loads(os.environ["KEYLATCH_TEST_WORKER"])
    # As ``uvicorn --fd`` does, which takes the socket for another kind, and is slow by 40 ms then.
    listener = socket.socket(fileno=int(sys.argv[1]))
    config = uvicorn.Config(
        application(**options), log_level="warning", access_log=False, timeout_keep_alive=60
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
