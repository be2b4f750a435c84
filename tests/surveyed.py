"""Parts of applications whose routes are surveyed, and whether one of these lets anybody in."""

import re
from contextlib import suppress
from typing import Any

from starlette.responses import PlainTextResponse

from keylatch.routes import RouteProtection


async def plain(request) -> PlainTextResponse:
    """A route of Starlette."""
    return PlainTextResponse("in")


async def socket(websocket) -> None:
    """A WebSocket of Starlette."""
    await websocket.accept()
    await websocket.close()


async def opaque(scope, receive, send) -> None:
    """An application without routes."""
    if scope["type"] == "http":
        await PlainTextResponse("in")(scope, receive, send)


async def lets_in(app: Any, ask: Any, route: RouteProtection) -> bool:
    """Whether a route answers somebody without a credential otherwise than by a refusal."""
    path = re.sub(r"\{.*?\}|\*", "name", route.path)
    headers = [(b"host", route.host.encode())] if route.host else []
    if route.methods != ["WEBSOCKET"]:
        method = "GET" if "*" in route.methods else route.methods[0]
        return (await ask(app, headers, method=method, path=path)).status not in (401, 403)
    sent: list[str] = []

    async def receive():
        return {"type": "websocket.connect"} if not sent else {"type": "websocket.disconnect"}

    async def send(message) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "headers": headers}
    scope |= {"query_string": b"", "scheme": "ws", "subprotocols": [], "root_path": ""}
    with suppress(Exception):  # of FastAPI, which lets a refusal of a dependency through
        await app(scope, receive, send)
    return "websocket.accept" in sent
