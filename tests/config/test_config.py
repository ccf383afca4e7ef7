import pytest
import yaml
from pydantic import ValidationError

from rarecli.core.config.geometry import isotropic
from rarecli.core.config.loading import validate
from rarecli.core.config.model_spec import ModelSpec, NetworkConfig, load_spec
from rarecli.core.config.plan import CtNormalisation, Plan, require_patch_size
from rarecli.core.config.train_config import TrainConfig, load_train_config, preset_names
from rarecli.core.errors import ModelError, UsageError

PLAN = {
    "dataset": "d",
    "channel_names": ("MR",),
    "label_names": ("background", "x"),
    "label_values": (0, 1),
    "spacing_mm": (1.0, 1.0, 2.0),
    "patch_size": (32, 64, 32),
    "num_levels": 4,
}


def spec(**plan):
    return ModelSpec(name="m", plan=Plan(**(PLAN | plan)), network=NetworkConfig())


def refusal(**arguments):
    with pytest.raises(UsageError) as caught:
        load_train_config(**arguments)
    return str(caught.value)


def test_every_preset_of_the_contract_loads():
    assert {"hippocampus", "brain-tumour", "brain-tumour-paper", "paper", "smoke"} <= set(preset_names())
    for name in preset_names():
        assert isinstance(load_train_config(preset=name), TrainConfig)


def test_the_paper_preset_holds_the_paper_s_numbers():
    config = load_train_config(preset="paper")
    assert config.targets == "paper"
    assert (config.epochs, config.batch_size, config.seed, config.patience) == (80, 2, 42, 35)
    assert (config.optimiser.lr, config.optimiser.weight_decay, config.optimiser.grad_clip) == (3e-4, 3e-5, 1.0)
    assert (config.optimiser.schedule, config.loss.alpha) == ("plateau", 0.35)


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("epochs: 7\nbatch_size: 3\noptimiser:\n  lr: 0.5\n  weight_decay: 0.25\n")
    config = load_train_config(file=file, overrides={"epochs": 9, "optimiser.lr": 0.125})
    assert (config.epochs, config.batch_size) == (9, 3)
    assert (config.optimiser.lr, config.optimiser.weight_decay) == (0.125, 0.25)
    assert config.optimiser.grad_clip == TrainConfig().optimiser.grad_clip


def test_overrides_leave_the_presets_as_they_are():
    load_train_config(preset="paper", overrides={"optimiser.lr": 9.0})
    assert load_train_config(preset="paper").optimiser.lr == 3e-4


def test_json_is_read_as_well(tmp_path):
    (tmp_path / "c.json").write_text('{"epochs": 5, "loss": {"alpha": 0.5}}')
    config = load_train_config(file=tmp_path / "c.json")
    assert (config.epochs, config.loss.alpha) == (5, 0.5)


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("")
    assert load_train_config(file=tmp_path / "c.yaml") == TrainConfig()


def test_what_is_resolved_reads_back_to_the_same(tmp_path):
    config = load_train_config(preset="paper", overrides={"fold": "all"})
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert load_train_config(file=tmp_path / "c.yaml") == config


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("epoch", "epochs"),
        ("num_epochs", "epochs"),
        ("optimiser.lrr", "optimiser.lr"),
        ("lr", "optimiser.lr"),
        ("learning_rate", "optimiser.lr"),
        ("optimizer.weight-decay", "optimiser.weight_decay"),
        ("rotation_degree", "augmentation.rotation_degrees"),
    ],
)
def test_an_unknown_key_is_refused_naming_the_nearest(key, near):
    words = refusal(overrides={key: 1})
    assert f"field: {key}" in words
    assert f"did you mean {near}?" in words


def test_a_key_like_none_says_where_all_are():
    words = refusal(overrides={"loss.zzz": 1})
    assert words.endswith("remedy: all settings are in rarecli/core/config/train_config.py, and in the run.json of a run")
    assert len(words) < 200
    with pytest.raises(UsageError) as caught:
        validate(TrainConfig, {"loss": {"zzz": 1}}, "the file", UsageError)
    assert "known keys: alpha, consistency, consistency_start_epoch" in str(caught.value)


def test_what_preprocess_decides_is_no_setting():
    assert "remedy: rare preprocess --patch-size decides it" in refusal(overrides={"patch_size": [32, 32, 32]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("loss.alpha", 1.5),
        ("optimiser.lr", -1),
        ("fold", "some"),
        ("arch", "vnet"),
        ("dropout", 1),
        ("ema_decay", "much"),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_key(key, value):
    words = refusal(overrides={key: value})
    assert f"field: {key}" in words
    assert f"found: {value}" in words


def test_a_key_below_a_plain_value_is_refused():
    assert "field: epochs.more" in refusal(overrides={"epochs": 5, "epochs.more": 1})


def test_an_unknown_preset_lists_the_known_ones():
    words = refusal(preset="hipocampus")
    assert "found: hipocampus" in words
    assert "hippocampus" in words.split("expected:")[1]


@pytest.mark.parametrize("content", ["a: [", "- 1\n- 2\n", "just text", "!!python/object/apply:os.system ['exit 9']"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    assert str(tmp_path / "c.yaml") in refusal(file=tmp_path / "c.yaml")


def test_a_binary_or_missing_file_is_named(tmp_path):
    assert "none.yaml" in refusal(file=tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00\x81")
    assert "c.yaml" in refusal(file=tmp_path / "c.yaml")


def test_configuration_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig().epochs = 3


@pytest.mark.parametrize(
    ("size", "num_levels", "words"),
    [(20, 3, "16 or 24"), (40, 4, "32 or 48"), (31, 4, "at least 32: 32"), (8, 3, "at least 16: 16"), (0, 2, "8")],
)
def test_a_patch_that_does_not_suit_names_its_neighbours(size, num_levels, words):
    with pytest.raises(UsageError) as caught:
        require_patch_size((64, size, 64), num_levels)
    assert "patch size along y" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(("size", "num_levels"), [((32, 32, 32), 4), ((48, 96, 32), 4), ((8, 12, 16), 2)])
def test_a_patch_that_suits_passes_and_one_voxel_more_does_not(size, num_levels):
    require_patch_size(size, num_levels)
    with pytest.raises(UsageError, match="patch size along z"):
        require_patch_size((*size[:2], size[2] + 1), num_levels)


@pytest.mark.parametrize("change", [{"label_names": ("background",), "label_values": (0,)}, {"label_values": (0, 1, 2)}])
def test_a_plan_needs_a_background_and_a_class_each_with_a_value(change):
    with pytest.raises(ValidationError, match="background"):
        Plan(**(PLAN | change))


def test_two_classes_of_a_plan_have_two_names():
    with pytest.raises(ValidationError, match="two labels have the same name: horn for the values 1 and 3"):
        Plan(**(PLAN | {"label_names": ("background", "horn", "tail", "horn"), "label_values": (0, 1, 2, 3)}))


def test_a_plan_comes_back_from_json_with_its_normalisation():
    plan = Plan(**PLAN, normalisation=CtNormalisation(lower=(-1.5,), upper=(2,), mean=(0,), std=(1,)))
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize(
    "change", [{"num_levels": 3, "num_depths": 4}, {"arch": "unet", "num_depths": 2}, {"num_classes": 1}, {"dropout": 1.0}]
)
def test_a_network_that_cannot_be_is_refused(change):
    with pytest.raises(ValidationError):
        NetworkConfig(**change)


def test_grid_and_patch_by_depth():
    assert spec().grid_spacing_mm((2, 2, 2)) == (4, 4, 8)
    assert spec().grid_spacing_mm((0, 1, 3)) == (1, 2, 16)
    assert [spec().patch_shape(isotropic(depth)) for depth in range(4)] == [(32, 64, 32), (16, 32, 16), (8, 16, 8), (4, 8, 4)]
    assert spec().engine_shape((17, 32, 3), (1, 1, 1)) == (24, 32, 16)
    assert spec().patch_shape((0, 1, 3)) == (32, 32, 4)


def test_a_spec_comes_back_from_json(tmp_path):
    assert load_spec(spec().model_dump(mode="json"), tmp_path) == spec()


@pytest.mark.parametrize("change", [{"schema_version": 2}, {"plan": {}}, {"surprise": 1}, {"network": {"num_levels": 0}}], ids=str)
def test_a_broken_spec_is_a_model_error_with_its_path(tmp_path, change):
    with pytest.raises(ModelError) as caught:
        load_spec(spec().model_dump(mode="json") | change, tmp_path / "model.json")
    assert "model.json" in str(caught.value)


def test_a_spec_with_a_patch_that_does_not_suit_is_a_model_error(tmp_path):
    content = spec().model_dump(mode="json")
    content["plan"]["patch_size"] = [33, 64, 32]
    with pytest.raises(ModelError) as caught:
        load_spec(content, tmp_path / "model.json")
    assert "model.json" in str(caught.value)


def test_a_resumed_run_keeps_what_is_not_said_anew():
    started = load_train_config(overrides={"epochs": 7, "optimiser.lr": 1.0, "optimiser.weight_decay": 0.5})
    again = load_train_config(overrides={"optimiser.lr": 2.0}, base=started)
    assert (again.epochs, again.optimiser.lr, again.optimiser.weight_decay) == (7, 2.0, 0.5)
    assert load_train_config(base=started) == started
