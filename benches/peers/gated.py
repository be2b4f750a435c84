"""fastapi-keygate's own example, in the variant that the environment names: sync or async.

`python gated.py` makes the tables and a key, and prints the key. No limit of requests, since
that is not what is measured; the package still logs each request, which is what it is for.
"""

import asyncio
import os

from fastapi import Depends, FastAPI
from keygate import ApiKey, AsyncKeyGate, KeyGate

ITEMS = {"items": ["one", "two", "three"]}
URL = os.environ["BENCH_DATABASE"]
SYNC = os.environ["BENCH_VARIANT"] == "sync"

app = FastAPI()
if SYNC:
    gate = KeyGate(app, db_url=URL.replace("+aiosqlite", ""), default_per_minute=None)
else:
    gate = AsyncKeyGate(app, db_url=URL, default_per_minute=None)


@app.get("/open")
async def open_route():
    """Whoever asks."""
    return ITEMS


@app.get("/key")
async def key_route(key: ApiKey = Depends(gate.require_scopes("items:read"))):  # noqa: B008, FAST002
    """With a key of fastapi-keygate."""
    return ITEMS


if __name__ == "__main__":
    made = gate.create_key("u1", name="ci", scopes=["items:read"])
    print(made.key if SYNC else asyncio.run(made).key)
