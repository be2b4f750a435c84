"""Collections of keys on databases that are about to fail, and what must hold in every test."""

import gc
from collections.abc import Callable, Iterator

import pytest
from canaries import Canaries
from stores import key_database
from subject import Subject


@pytest.fixture
def url(engine_name: str) -> Iterator[str]:
    """A database with empty tables; a test that wants some engines only parametrizes their name."""
    with key_database(engine_name) as url:
        yield url


@pytest.fixture
def canaries(secret: str) -> Canaries:
    """The server secret to begin with; the subject adds its password, tokens and hashes."""
    return Canaries(secret)


@pytest.fixture
def subject(secret: str, clock, canaries: Canaries) -> Callable[..., Subject]:
    """Makes a collection on a URL or an engine, which is closed when it is left."""

    def subject(source, direct=None, **options) -> Subject:
        return Subject(
            source, direct or source, secret=secret, clock=clock, canaries=canaries, **options
        )

    return subject


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture, canaries: Canaries) -> Iterator[None]:
    """No log of ours shows a canary, and asyncio has nothing to complain of."""
    caplog.set_level("DEBUG", logger="keylatch")
    gc.freeze()  # or it would take longer to look through all that there is than to run the test
    yield
    gc.collect()
    gc.unfreeze()
    records = caplog.get_records("call")
    ours = [record for record in records if record.name == "keylatch"]
    canaries.assert_absent("the logs", "".join(str(vars(record)) for record in ours))
    assert [record.getMessage() for record in records if record.name == "asyncio"] == []
