"""How the processes of several machines share the work of filling the cache."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from lalm_mer.launch.run.encoded_data import is_shared


@pytest.mark.parametrize(("folders", "shared"), [("aaaa", True), ("aabb", False)])
def test_a_folder_is_shared_if_all_processes_see_the_file_of_the_first(folders, shared, tmp_path):
    store = HashStore()
    (tmp_path / "b").mkdir()
    with ThreadPoolExecutor(len(folders)) as pool:
        found = pool.map(
            lambda process: is_shared(tmp_path / folders[process], store, process, len(folders)), range(len(folders))
        )
    assert list(found) == [shared] * len(folders)
    assert list((tmp_path / "a").iterdir()) == []
