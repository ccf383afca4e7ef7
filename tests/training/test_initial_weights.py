import pytest
import torch

from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import CtNormalisation, PercentileNormalisation, PerChannelNormalisation, Plan, ZScoreNormalisation
from rarecli.core.errors import ModelError
from rarecli.core.model import build_network
from rarecli.core.training.initial_weights import initialise, inputs_differ


def model(labels=("background", "head", "tail"), channels=1, **sizes):
    plan = Plan(
        dataset="d",
        channel_names=tuple(f"c{index}" for index in range(channels)),
        label_names=labels,
        label_values=tuple(range(len(labels))),
        spacing_mm=(1, 1, 1),
        patch_size=(32, 32, 32),
        num_levels=4,
    )
    network = NetworkConfig(**{"num_filters": 4, "in_channels": channels, "num_classes": len(labels)} | sizes)
    spec = ModelSpec(name="other", plan=plan, network=network)
    return spec, build_network(network)


def start(ours, theirs, tmp_path):
    (spec, network), (other, source) = ours, theirs
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    loaded = initialise(network, spec, other, source.state_dict(), tmp_path / "w.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name] if name in loaded.random else source.state_dict()[name])
    return loaded


def test_all_is_taken_from_the_same_network(tmp_path):
    loaded = start(model(), model(), tmp_path)
    assert (loaded.share, loaded.random, loaded.unused) == (1, {}, ())
    assert loaded.words() == [f"weights of other: {loaded.num_loaded} tensors loaded, 100.0% of the network"]


def test_another_number_of_channels_leaves_the_first_convolutions_random(tmp_path):
    loaded = start(model(channels=2), model(), tmp_path)
    assert set(loaded.random) == {"encoder.0.0.weight", *(f"gateways.{index}.0.weight" for index in range(3))}
    assert "random, since other has another shape: encoder.0.0.weight, gateways.0.0.weight" in loaded.words()[1]


def test_entries_that_the_model_lacks_stay_random_and_those_too_many_are_not_used(tmp_path):
    loaded = start(model(), model(arch="unet", num_depths=1), tmp_path)
    assert {name.split(".")[0] for name in loaded.random} == {"gateways", "heads"}
    assert "heads.0.weight" not in loaded.random
    loaded = start(model(arch="unet", num_depths=1), model(), tmp_path)
    assert not loaded.random
    assert "heads.3.bias" in loaded.unused
    *shown, more = loaded.words()[-1].removeprefix("  not used: ").replace(" and ", ", ").split(", ")
    assert len(shown) == 8
    assert more == f"{len(loaded.unused) - 8} more"  # a gateway has 8 tensors: all names would fill the screen


def test_heads_are_taken_only_for_the_same_labels(tmp_path):
    loaded = start(model(), model(("background", "tail", "head")), tmp_path)
    assert set(loaded.random) == {f"heads.{depth}.{part}" for depth in range(4) for part in ("weight", "bias")}
    assert "label head is tail in other" in loaded.words()[1]
    assert not start(model(), model(("background", "Head", "TAIL")), tmp_path).random
    # undeclared names carry no information
    assert not start(model(), model(("background", "class 1", "class 2")), tmp_path).random
    assert len(start(model(("background", "head")), model(), tmp_path).random) == 8


def prepared(**changes):
    spec, _ = model()
    return spec.model_copy(update={"plan": spec.plan.model_copy(update=changes)})


CT = CtNormalisation(lower=(0,), upper=(1,), mean=(0,), std=(1,))


@pytest.mark.parametrize(
    ("ours", "theirs", "told"),
    [
        ({}, {}, None),
        ({"spacing_mm": (1, 1, 1.04)}, {}, None),
        ({"spacing_mm": (1, 1, 3)}, {}, "spacing 1 mm there and 1x1x3 mm here"),
        ({}, {"crop": "nonzero"}, "crop nonzero there and none here"),
        ({"normalisation": CT}, {}, "normalisation percentile there and ct here"),
        ({"normalisation": CT}, {"normalisation": CT.model_copy(update={"mean": (40,)})}, None),
        (
            {"normalisation": PercentileNormalisation(voxels="nonzero")},
            {"normalisation": PerChannelNormalisation(rules=(CT, ZScoreNormalisation())), "crop": "nonzero"},
            "normalisation ct and z-score there and percentile-nonzero here, crop nonzero there and none here",
        ),
    ],
)
def test_scans_that_were_prepared_otherwise_are_told(ours, theirs, told):
    start = "other was trained on scans prepared otherwise, so its weights may help less: "
    assert inputs_differ(prepared(**ours), prepared(**theirs)) == (told and start + told)


def test_fault_48_another_network_is_refused_with_its_keys(tmp_path):
    """`--init` refuses weights that fit less than half of the network, listing the keys."""
    with pytest.raises(ModelError) as caught:
        start(model(), model(num_filters=8), tmp_path)
    assert "of another shape: encoder.0.0.weight" in str(caught.value)
    with pytest.raises(ModelError) as caught:
        start(model(), model(num_levels=3, num_depths=3), tmp_path)
    assert "missing" in str(caught.value)


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    theirs = model()
    theirs[1].bottleneck[0].bias.data[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        start(model(), theirs, tmp_path)
