"""OpenAPI documents of applications that are mounted, or have a lifespan or a middleware."""

import json
from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import FastAPI, Security
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host, Mount
from starlette.staticfiles import StaticFiles

from keylatch import APIKey
from keylatch.asgi import APIKeyMiddleware
from keylatch.errors import ConfigurationError
from keylatch.fastapi import APIKeyAuth, RefusedError, problem_handler
from keylatch.memory import MemoryStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> MemoryStore:
    """What is documented is the same with every store."""
    return MemoryStore()


def protected(auth: APIKeyAuth, **options) -> FastAPI:
    """An application with one route."""
    app = FastAPI(**options)

    @app.get("/x")
    async def route(key: Annotated[APIKey, Security(auth, scopes=["a"])]) -> None: ...

    return app


async def test_what_is_mounted_is_documented_as_fully(keys, ask, tmp_path):
    """By the lifespan of the outermost, at any depth and behind middleware."""
    auth = APIKeyAuth(keys)
    app, mounted = protected(auth, lifespan=keys.lifespan), protected(auth)
    deeper, behind, hosted = protected(auth), protected(auth), protected(auth)
    behind.add_exception_handler(RefusedError, problem_handler)
    mounted.mount("/deeper", Starlette(routes=[Mount("/s", deeper), Mount("/self", mounted)]))
    app.mount("/mounted", mounted)
    app.mount("/behind", GZipMiddleware(behind))
    app.mount("/files", StaticFiles(directory=tmp_path))
    app.mount("/opaque", object())
    app.router.routes.append(Host("sub.example", hosted))
    async with app.router.lifespan_context(app):
        documents = [
            json.loads((await ask(app, path=f"{path}/openapi.json")).body)
            for path in ("", "/mounted", "/mounted/deeper/s", "/behind")
        ]
        documents.append(json.loads((await ask(hosted, path="/openapi.json")).body))
    for document in documents:
        assert set(document["components"]["securitySchemes"]) == {"APIKey", "APIKey-X-API-Key"}
        operation = document["paths"]["/x"]["get"]
        assert set(operation["responses"]) == {"200", "400", "401", "403", "503"}
        assert operation["security"] == [{"APIKey": ["a"]}, {"APIKey-X-API-Key": ["a"]}]
    behind_problem = documents[3]["paths"]["/x"]["get"]["responses"]["401"]["content"]
    assert set(behind_problem) == {"application/problem+json"}


async def test_an_application_that_is_no_fastapi_has_those_within_it_documented(keys, ask):
    """Its lifespan starts the collection as well."""
    mounted = protected(APIKeyAuth(keys))
    app = Starlette(routes=[Mount("/mounted", mounted)], lifespan=keys.lifespan)
    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/mounted/openapi.json")).body)
    assert "401" in document["paths"]["/x"]["get"]["responses"]


async def test_one_name_for_two_is_refused_within_one_document_only(keys):
    """Each application has a document of its own."""
    one, other = APIKeyAuth(keys), APIKeyAuth(keys, headers=["X-Other-Key"])
    app = protected(one, lifespan=keys.lifespan)
    mounted = protected(other)
    app.mount("/mounted", mounted)
    async with app.router.lifespan_context(app):
        pass
    app, mounted = protected(one, lifespan=keys.lifespan), protected(other)
    app.mount("/mounted", mounted)
    mounted.get("/y", dependencies=[Security(one)])(lambda: None)
    with pytest.raises(ConfigurationError, match="scheme_name"):
        async with app.router.lifespan_context(app):
            pass


async def test_a_lifespan_of_the_application_s_own_wraps_ours(keys, ask):
    """With ``keys.lifespan(app)`` within it, documents are as complete."""
    events = []

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        events.append("started")
        async with keys.lifespan(app):
            assert keys.health().started
            yield
        events.append("ended")

    app = protected(APIKeyAuth(keys), lifespan=lifespan)
    async with app.router.lifespan_context(app):
        document = json.loads((await ask(app, path="/openapi.json")).body)
    assert events == ["started", "ended"]
    assert set(document["components"]["securitySchemes"]) == {"APIKey", "APIKey-X-API-Key"}
    assert {"400", "401", "403", "503"} < set(document["paths"]["/x"]["get"]["responses"])


async def test_a_dependency_shows_what_a_middleware_cannot(keys, ask):
    """Alone FastAPI writes nothing of it; with a dependency for all routes, all of them say so."""
    answers = []
    for dependencies in ([], [Security(APIKeyAuth(keys))]):
        app = FastAPI(lifespan=keys.lifespan, dependencies=dependencies)
        app.get("/x")(lambda: None)
        app.add_middleware(APIKeyMiddleware, keys=keys, exclude=["/openapi.json"])
        async with app.router.lifespan_context(app):
            document = json.loads((await ask(app, path="/openapi.json")).body)
        answers.append(set(document["paths"]["/x"]["get"]["responses"]))
        assert (await ask(app, path="/x")).status == 401
    assert answers == [{"200"}, {"200", "400", "401", "503"}]
