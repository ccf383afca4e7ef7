import json

import pytest
import torch
from safetensors.torch import load_file

from rarecli.core.benchmarking.suites import load_suite, random_spec, suite_names, write_random_run
from rarecli.core.errors import UsageError


def test_the_suites_of_the_package_are_what_the_issue_says():
    assert suite_names() == ["brain-tumour", "hippocampus", "smoke"]
    small, large = load_suite("hippocampus"), load_suite("brain-tumour")
    assert (small.network.num_filters, small.network.num_levels, small.network.num_classes, small.patch_size) == (16, 4, 3, (32, 64, 32))
    assert (large.network.in_channels, large.network.num_filters, large.network.num_levels) == (4, 32, 5)
    assert (large.network.num_depths, large.patch_size) == (4, (256, 256, 128))


def test_a_suite_may_be_a_file(tmp_path):
    content = {"name": "mine", "about": "", "network": {}, "patch_size": [32, 32, 32], "rows": [{"backends": ["torch"]}]}
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert load_suite(str(tmp_path / "mine.json")).network.num_filters == 16
    (tmp_path / "mine.json").write_text(json.dumps(content | {"row": []}))
    with pytest.raises(UsageError, match="the suite is invalid") as error:
        load_suite(str(tmp_path / "mine.json"))
    assert error.value.remedy == "did you mean rows?"


def test_an_unknown_suite_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="no such suite") as error:
        load_suite("hippo")
    assert "brain-tumour, hippocampus, smoke" in str(error.value)


def test_random_weights_are_always_the_same_and_leave_the_generator_alone(tmp_path):
    spec = random_spec(load_suite("smoke"))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    for name in ("one", "two"):
        write_random_run(spec, tmp_path / name)
    assert torch.equal(torch.rand(3), expected)
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
