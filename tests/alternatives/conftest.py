"""What the tests beside other libraries share."""

from pathlib import Path

import pytest


@pytest.fixture
def path(tmp_path) -> Path:
    """The file that the keys of a test are in."""
    return tmp_path / "keys.db"
