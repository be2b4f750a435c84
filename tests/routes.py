"""An application with the management routes, and a client of it, for the tests of these."""

import json
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from keylatch import APIKeys, NewKey
from keylatch.fastapi import APIKeyAuth, keys_router

READS = "keys:read"
WRITES = "keys:write"
ADMIN = "keys:admin"
BOTH = (READS, WRITES)


def application(keys: APIKeys, **options: Any) -> FastAPI:
    """An application that has the routes at /api-keys."""
    app = FastAPI(**options)
    app.include_router(keys_router(APIKeyAuth(keys)), prefix="/api-keys")
    return app


@dataclass(frozen=True)
class Client:
    """Sends requests with a token, and reads JSON."""

    ask: Any
    app: Any
    token: str | None = None

    def by(self, new: NewKey | str | None) -> "Client":
        """The same with another token."""
        return Client(self.ask, self.app, new.token if isinstance(new, NewKey) else new)

    async def __call__(
        self,
        method: str,
        path: str = "",
        body: Any = None,
        *,
        raw: bytes | None = None,
        **more: Any,
    ) -> Any:
        """The answer, with ``json`` and ``status``."""
        headers = [(b"content-type", b"application/json")]
        if self.token is not None:
            headers.append((b"authorization", f"Bearer {self.token}".encode()))
        if raw is None:
            raw = b"" if body is None else json.dumps(body).encode()
        return await self.ask(
            self.app, headers, method=method, path=f"/api-keys{path}", body=raw, **more
        )


def said(answer: Any) -> Any:
    """What stands in the JSON of an answer."""
    return json.loads(answer.body)
