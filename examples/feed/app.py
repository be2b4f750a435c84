"""Feeds over WebSockets and server-sent events, for whoever has a key with the channel's scope.

A connection outlives its request: its key is looked at again, for as long as it goes on.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, FastAPI, Security, WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from keylatch import APIKey, APIKeys
from keylatch.fastapi import APIKeyAuth, ClosedError, RefusedError

CHECK_EVERY = 1.0  # seconds: how long a key that has ended may still hold a connection open
SEND_WITHIN = 10.0  # seconds: a client that takes nothing for longer is given up

keys = APIKeys(os.environ.get("KEYLATCH_DATABASE", "sqlite+aiosqlite:///feed.db"), prefix="feed")
auth = APIKeyAuth(keys)
app = FastAPI(title="A feed", lifespan=keys.lifespan)


class Channel(StrEnum):
    """What there is to hear. A scope is made of it, so that it must be one of these."""

    TRADES = "trades"
    QUOTES = "quotes"


class Message(BaseModel):
    """What is told."""

    text: str = Field(min_length=1, max_length=1000)


Check = Callable[[], Awaitable[APIKey]]


def may(verb: str) -> Callable[..., Awaitable[Check]]:
    """A dependency that lets pass who may do this to the channel, and tells how to ask again."""

    async def dependency(
        connection: HTTPConnection, channel: Channel, _: Annotated[APIKey, Security(auth)]
    ) -> Check:
        async def check() -> APIKey:
            # Verifies the key of the connection anew: revoked, expired or narrowed, it raises.
            return await auth.again(connection, scopes=[f"{verb}:{channel}"])

        await check()
        return check

    return dependency


MayRead = Annotated[Check, Depends(may("read"))]
MayWrite = Annotated[Check, Depends(may("write"))]

# Of this process. With several workers, pass messages on through Redis or PostgreSQL's NOTIFY.
listeners: defaultdict[Channel, set[asyncio.Queue[str]]] = defaultdict(set)


@contextmanager
def listening(channel: Channel) -> Iterator[asyncio.Queue[str]]:
    """What is told from now on. Who falls behind by more than a hundred misses the oldest."""
    queue = asyncio.Queue[str](maxsize=100)
    listeners[channel].add(queue)
    try:
        yield queue
    finally:
        listeners[channel].remove(queue)


async def messages(channel: Channel, check: Check) -> AsyncGenerator[str, None]:
    """What is told, until the key may not hear it any more: then it raises."""
    with listening(channel) as queue:
        while True:
            message = None
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK_EVERY):
                    message = await queue.get()
            await check()  # costs a microsecond, and comes before each message
            if message is not None:
                yield message


@app.post("/channels/{channel}", status_code=204)
async def publish(channel: Channel, message: Message, _: MayWrite) -> None:
    """Tells everybody who listens."""
    text = message.model_dump_json()
    for queue in listeners[channel]:
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(text)


@app.get("/events/{channel}", response_class=EventSourceResponse)
async def as_events(channel: Channel, check: MayRead) -> AsyncIterable[ServerSentEvent]:
    """The channel as server-sent events. The last one, `refused`, says why no more will come."""
    try:
        async with aclosing(messages(channel, check)) as told:
            async for message in told:
                yield ServerSentEvent(raw_data=message)
    except RefusedError as refused:
        yield ServerSentEvent(event="refused", data=refused.detail)


@app.websocket("/channels/{channel}")
async def over_websocket(websocket: WebSocket, channel: Channel, check: MayRead) -> None:
    """The channel as a WebSocket. A key that may not hear it was refused before this began."""
    await websocket.accept()
    async with asyncio.TaskGroup() as group:
        sending = group.create_task(send(websocket, channel, check))
        while (await websocket.receive())["type"] != "websocket.disconnect":
            pass  # nobody listens to what the client says
        sending.cancel()


async def send(websocket: WebSocket, channel: Channel, check: Check) -> None:
    """Sends what is told, and closes the socket once the key may not hear it any more."""
    with suppress(WebSocketDisconnect):
        try:
            async with aclosing(messages(channel, check)) as told:
                async for message in told:
                    async with asyncio.timeout(SEND_WITHIN):
                        await websocket.send_text(message)
        except ClosedError as refused:
            # RFC 6455: 1008 is for good, 1013 says to try again later.
            await websocket.close(refused.code, refused.detail)
        except TimeoutError:
            await websocket.close(1013, "too slow")
