"""A SQLite file that is gone, is no database, or is held by somebody else."""

import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from subject import CALLS, CHANGES, READS, holding, nothing_written

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("engine_name", ["sqlite-async", "sqlite-sync"]),
]


def file(url) -> Path:
    """Where the database is."""
    return Path(sa.make_url(url).database)


async def test_a_directory_that_is_missing(url, subject):
    """The application does not start, and does once the directory is there."""
    directory = file(url).parent
    shutil.rmtree(directory)
    keys = subject(url)
    await keys.does_not_start("unable to open")
    directory.mkdir()
    async with keys:
        await keys.works()


async def test_a_directory_that_goes_away(url, subject):
    """What is not there any more cannot be opened; what is open goes on."""
    directory = file(url).parent
    async with subject(url) as keys:
        aside = directory.rename(directory.with_name(f"{directory.name}-aside"))
        async with keys.elsewhere(url):
            await keys.fails(*CALLS, match="unable to open")
        aside.rename(directory)
        await keys.works()


async def test_a_file_that_is_no_database(url, subject):
    """Somebody wrote something else over it, and then what was there before."""
    async with subject(url) as keys:
        before = file(url).read_bytes()
        file(url).write_bytes(b"garbage" * (len(before) // 7))
        await keys.fails(*CALLS, match="not a database")
        async with keys.elsewhere(url):
            await keys.does_not_start("not a database")
        file(url).write_bytes(before)
        await keys.lets_go()
        await keys.works()


async def test_a_file_that_is_read_only(url, subject):
    """Nothing is changed, and keys are read and verified as ever."""
    async with subject(url) as keys:
        read_only = f"{url.replace(str(file(url)), f'file:{file(url)}')}?mode=ro&uri=true"
        with nothing_written(keys):
            async with keys.elsewhere(read_only):
                await keys.fails(*CHANGES, match="readonly")
                await keys.works(*READS)
        await keys.works()


async def test_a_reader_that_holds_the_file(url, subject):
    """A change cannot be committed while somebody reads: it is not, then or later."""
    async with subject(url) as keys:
        with nothing_written(keys):
            with holding(url, "reading"):
                await keys.fails("create")
                await keys.works(*READS)
            await keys.lets_go()
        await keys.works()
