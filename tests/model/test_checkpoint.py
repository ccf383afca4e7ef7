import pickle

import pytest
import torch

from rarecli.core.errors import ModelError
from rarecli.core.model import RareUNet
from rarecli.core.model.checkpoint import load_state, load_tensors, load_weights, save_state, save_weights

SMALL = {"in_channels": 1, "num_classes": 2, "num_filters": 2, "num_levels": 2, "num_depths": 2}


def test_weights_and_facts_come_back(tmp_path):
    network, other = RareUNet(**SMALL), RareUNet(**SMALL)
    save_weights(tmp_path / "w.safetensors", network.state_dict(), {"epoch": 3})
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    assert load_tensors(tmp_path / "w.safetensors")[1] == {"epoch": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def test_fault_48_weights_of_another_depth_list_their_keys(tmp_path):
    """Refused, listing the keys."""
    save_weights(tmp_path / "w.safetensors", RareUNet(**SMALL).state_dict())
    with pytest.raises(ModelError) as caught:
        load_weights(RareUNet(**{**SMALL, "num_depths": 1}), tmp_path / "w.safetensors")
    assert "surplus: gateways.0.0.bias" in str(caught.value)
    with pytest.raises(ModelError) as caught:
        load_weights(RareUNet(**{**SMALL, "in_channels": 4}), tmp_path / "w.safetensors")
    assert "of another shape: encoder.0.0.weight" in str(caught.value)


def test_fault_49_a_renamed_pickle_is_refused_and_not_run(tmp_path):
    """Refused as weights; the pickle is not run."""
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="not a safetensors"):
        load_weights(RareUNet(**SMALL), tmp_path / "w.safetensors")
    assert not canary.exists()


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    weights = RareUNet(**SMALL).state_dict()
    weights["bottleneck.0.bias"][0] = torch.nan
    save_weights(tmp_path / "w.safetensors", weights)
    with pytest.raises(ModelError) as caught:
        load_weights(RareUNet(**SMALL), tmp_path / "w.safetensors")
    assert "bottleneck.0.bias" in str(caught.value)


def test_missing_weights_say_so(tmp_path):
    with pytest.raises(ModelError, match="missing"):
        load_weights(RareUNet(**SMALL), tmp_path / "none.safetensors")


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(7)}, {"epoch": 3})
    content = path.read_bytes()
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1
        path.write_bytes(flipped)
        try:
            tensors, facts = load_tensors(path)
        except ModelError:
            continue
        # the remaining bytes do not change the content, e.g. a space that pads the header
        assert facts == {"epoch": 3}, index
        assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3)), index
        assert torch.equal(tensors["n"], torch.tensor(7)), index


def test_two_states_are_kept_and_one_is_always_whole(tmp_path):
    for step in range(3):
        save_state(tmp_path, {"a": torch.tensor(float(step))}, {"step": step})
    assert load_state(tmp_path)[1] == {"step": 2}
    (tmp_path / "last.safetensors").unlink()  # as between the two renames
    assert load_state(tmp_path)[1] == {"step": 1}
