"""The routes that manage keys over HTTP, each protected by a key.

Knows FastAPI and the collection of keys; ``delegation`` has the rules of what a key may do to
others. (No postponed annotations here: FastAPI reads them.)
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException

from keylatch.delegation import READ, WRITE
from keylatch.errors import (
    AuthenticationError,
    KeylatchError,
    KeyStateError,
    UnavailableError,
    UnknownKeyError,
)
from keylatch.keys import APIKeys
from keylatch.management import KeyManagement
from keylatch.records import APIKey, KeyEvent, NewKey, Page
from keylatch.router_models import (
    KeyEdits,
    KeyEventInfo,
    KeyInfo,
    KeyPage,
    KeyQuery,
    KeyToCreate,
    KeyWithToken,
    Refusal,
    Revocation,
    Rotation,
    TrailQuery,
)

Refuse = Callable[[AuthenticationError | UnavailableError], HTTPException]

# A name of ours in the place of an error. Anything else came from the client.
_OWN_NAME: Final = re.compile("[a-z_]{1,20}")
_KEY_ID: Final = Path(
    description="The id of a key.", json_schema_extra={"pattern": "^[0-9a-hjkmnp-tv-z]{16}$"}
)


@dataclass(frozen=True, slots=True)
class _Delegation:
    """What the key of a request may do, and how the audit trail calls it."""

    keys: KeyManagement
    caller: APIKey

    @property
    def actor(self) -> str:
        return f"key:{self.caller.id}"


def routes(auth: Callable[..., Awaitable[APIKey]], keys: APIKeys, *, refuse: Refuse) -> APIRouter:
    """The routes, each of which asks for a key itself: whatever includes them cannot forget to.

    Args:
        auth: The dependency that verifies a request's key.
        keys: The collection that it belongs to.
        refuse: Makes the answer to a request that may not pass.
    """

    def delegation(scope: str) -> Any:
        async def delegated(
            request: Request, key: Annotated[APIKey, Security(auth, scopes=[scope])]
        ) -> AsyncIterator[_Delegation]:
            try:
                yield _Delegation(keys.delegated_to(key), key)
            except AuthenticationError as error:
                error.key = key
                keys.refused(error)
                raise refuse(error) from error
            except UnavailableError as error:
                raise refuse(error) from error
            except UnknownKeyError as error:
                raise HTTPException(404, str(error)) from error
            except KeyStateError as error:
                raise HTTPException(409, str(error)) from error
            except ValueError as error:
                if isinstance(error, KeylatchError):
                    raise  # the application is set up wrongly
                place = "query" if request.method == "GET" else "body"
                raise _invalid("value_error", [place], str(error)) from error

        return Depends(delegated)

    router = APIRouter(
        route_class=_Route, tags=["API keys"], responses=_refusals(400, 401, 403, 503)
    )
    _add_reading(router, delegation(READ))
    _add_writing(router, delegation(WRITE))
    return router


def _add_reading(router: APIRouter, reading: Any) -> None:
    @router.get("", response_model=KeyPage, summary="List keys")
    async def list_keys(
        by: Annotated[_Delegation, reading], query: Annotated[KeyQuery, Query()]
    ) -> Page:
        return await by.keys.list(**dict(query))

    @router.get("/{key_id}", response_model=KeyInfo, summary="Show a key", responses=_refusals(404))
    async def show_key(
        by: Annotated[_Delegation, reading], key_id: Annotated[str, _KEY_ID]
    ) -> APIKey:
        return await by.keys.get(key_id)

    @router.get(
        "/{key_id}/events",
        response_model=list[KeyEventInfo],
        summary="Show what happened to a key",
        responses=_refusals(404),
    )
    async def list_key_events(
        by: Annotated[_Delegation, reading],
        key_id: Annotated[str, _KEY_ID],
        query: Annotated[TrailQuery, Query()],
    ) -> Sequence[KeyEvent]:
        return await by.keys.events(key_id, latest=query.latest)


def _add_writing(router: APIRouter, writing: Any) -> None:
    @router.post(
        "",
        status_code=201,
        response_model=KeyWithToken,
        summary="Create a key",
        responses=_MINTED,
    )
    async def create_key(
        by: Annotated[_Delegation, writing],
        wanted: KeyToCreate,
        request: Request,
        response: Response,
    ) -> NewKey:
        new = await by.keys.create(
            name=wanted.name,
            owner=by.caller.owner if wanted.owner is None else wanted.owner,
            scopes=wanted.scopes,
            expires_in=_duration(wanted.expires_in),
            expires_at=wanted.expires_at,
            metadata=wanted.metadata,
            prefix=wanted.prefix,
            actor=by.actor,
        )
        here = request.scope["path"].rpartition("/")[2]
        response.headers["Location"] = f"{quote(here, safe='')}/{new.key.id}"
        return new

    @router.patch(
        "/{key_id}", response_model=KeyInfo, summary="Change a key", responses=_refusals(404, 409)
    )
    async def update_key(
        by: Annotated[_Delegation, writing], key_id: Annotated[str, _KEY_ID], edits: KeyEdits
    ) -> APIKey:
        given = {name: getattr(edits, name) for name in edits.model_fields_set}
        return await by.keys.update(key_id, **given, actor=by.actor)

    @router.post(
        "/{key_id}/rotate",
        status_code=201,
        response_model=KeyWithToken,
        summary="Replace a key",
        responses=_MINTED | _refusals(404, 409),
    )
    async def rotate_key(
        by: Annotated[_Delegation, writing],
        key_id: Annotated[str, _KEY_ID],
        rotation: Rotation,
        response: Response,
    ) -> NewKey:
        new = await by.keys.rotate(
            key_id,
            grace=timedelta(seconds=rotation.grace),
            expires_in=_duration(rotation.expires_in),
            expires_at=rotation.expires_at,
            actor=by.actor,
        )
        response.headers["Location"] = f"../{new.key.id}"
        return new

    @router.post(
        "/{key_id}/revoke",
        response_model=KeyInfo,
        summary="Revoke a key, for good",
        responses=_refusals(404),
    )
    async def revoke_key(
        by: Annotated[_Delegation, writing],
        key_id: Annotated[str, _KEY_ID],
        revocation: Revocation | None = None,
    ) -> APIKey:
        reason = None if revocation is None else revocation.reason
        return await by.keys.revoke(key_id, reason=reason, actor=by.actor)


class _Route(APIRoute):
    """Has nothing be cached, and never sends back what a client sent: it may be a token."""

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_uncached(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Cache-Control"] = "no-store"
            await send(message)

        answer = super().handle(scope, receive, send_uncached)
        del scope  # a traceback with locals must not show the token
        await answer

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                raise RequestValidationError(list(map(_without_input, error.errors()))) from None
            except StarletteHTTPException as error:
                # FastAPI's 400: too deeply nested, too long a number, or no UTF-8.
                if isinstance(error.__cause__, RecursionError | ValueError):
                    raise _invalid("json_invalid", ["body"], "JSON decode error") from None
                raise

        return handle


def _without_input(error: dict[str, Any]) -> dict[str, Any]:
    place = [
        part if isinstance(part, int) or _OWN_NAME.fullmatch(part) else "?" for part in error["loc"]
    ]
    return {"type": error["type"], "loc": place, "msg": error["msg"]}


def _invalid(kind: str, place: list[str], text: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": place, "msg": text}])


def _duration(seconds: int | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _header(description: str) -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": "string"}}


_CHALLENGE: Final = {"WWW-Authenticate": _header("What to send, as RFC 6750 has it.")}
_REFUSALS: Final[dict[int, dict[str, Any]]] = {
    400: {"description": "More than one API key", "headers": _CHALLENGE},
    401: {"description": "No API key, or one that is invalid", "headers": _CHALLENGE},
    403: {"description": "The API key lacks a scope", "headers": _CHALLENGE},
    404: {"description": "The API key sees no such key"},
    409: {"description": "The key is revoked, has expired, or was rotated"},
    503: {
        "description": "There is no telling now",
        "headers": {"Retry-After": _header("Seconds until another attempt makes sense.")},
    },
}
_MINTED: Final[dict[int | str, dict[str, Any]]] = {
    201: {
        "headers": {
            "Location": _header("Where the new key is, from here."),
            "Cache-Control": _header("no-store: the token is shown this once."),
        }
    }
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _REFUSALS[status] | {"model": Refusal} for status in statuses}
