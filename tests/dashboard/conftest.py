import pytest

from flows.store import open_store
from tests.dashboard.filled import fill


@pytest.fixture(scope="module")
def filled_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filled store, which its tests only read."""
    folder = str(tmp_path_factory.mktemp("store"))
    with open_store(folder) as store:
        fill(store)
    return folder
