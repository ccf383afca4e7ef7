"""The Python reader on the table of files that C++ reads, too."""

import pytest
from nifti_cases import CASES

from rarecli.core.errors import DataError
from rarecli.core.imaging.volume import read_volume

pytestmark = pytest.mark.filterwarnings("ignore:.*(neither sform nor qform|not exactly at right angles)")


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_read_or_refused_as_the_table_says(name, tmp_path):
    file, build, problem = CASES[name]
    build(tmp_path / file)
    if problem is None:
        assert read_volume(tmp_path / file).data.size
    else:
        with pytest.raises(DataError) as caught:
            read_volume(tmp_path / file)
        assert caught.value.problem == problem
