"""A model for phantoms: one channel, two foreground classes, 1 mm, four depths."""

from rarecli.core.config.model_spec import ModelSpec, NetworkConfig
from rarecli.core.config.plan import Plan
from rarecli.core.imaging.scan_rules import rules_of

PLAN = Plan(
    dataset="Phantoms",
    channel_names=("channel 0",),
    label_names=("background", "head", "tail"),
    label_values=(0, 1, 2),
    spacing_mm=(1, 1, 1),
    patch_size=(32, 32, 32),
    num_levels=4,
)
SPEC = ModelSpec(name="test", plan=PLAN, network=NetworkConfig(num_classes=3))
RULES = rules_of(SPEC)
PER_AXIS = rules_of(SPEC.model_copy(update={"per_axis": True, "any_size": True, "as_is_octaves": 0.6}))
"""The same, trained for thick slices and for any size."""
