"""An untrained nnU-Net of the default plan for an MSD dataset, as nnUNetv2_predict reads it. Runs in nnU-Net's own environment.

python nnunet_model.py DATASET     # with nnUNet_raw, nnUNet_preprocessed and nnUNet_results set

nnU-Net's planner reads the dataset and chooses patch, spacing and network; the weights are those that the network starts from. How long a
prediction takes does not depend on them.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

NAME, NUMBER, CONFIGURATION = "Dataset004_Hippocampus", 4, "3d_fullres"


def write_raw(source: Path, target: Path) -> dict:
    """Write a dataset.json that points to the files of an MSD dataset. Returns its content."""
    facts = json.loads((source / "dataset.json").read_text())
    names = [Path(item["image"]).name.removesuffix(".nii.gz") for item in facts["training"]]
    cases = {
        name: {"images": [str(source / "imagesTr" / f"{name}.nii.gz")], "label": str(source / "labelsTr" / f"{name}.nii.gz")}
        for name in names
        if (source / "imagesTr" / f"{name}.nii.gz").is_file()
    }
    content = {
        "channel_names": facts["modality"],
        "labels": {name: int(value) for value, name in facts["labels"].items()},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "dataset": cases,
    }
    target.mkdir(parents=True, exist_ok=True)
    (target / "dataset.json").write_text(json.dumps(content))
    return content


def main() -> None:
    raw, prepared, results = (Path(os.environ[f"nnUNet_{name}"]) for name in ("raw", "preprocessed", "results"))
    content = write_raw(Path(sys.argv[1]).resolve(), raw / NAME)
    extract_fingerprints([NUMBER], num_processes=2, check_dataset_integrity=False)
    plan_experiments([NUMBER])
    plans = json.loads((prepared / NAME / "nnUNetPlans.json").read_text())
    network = PlansManager(plans).get_configuration(CONFIGURATION)
    torch.manual_seed(0)
    model = get_network_from_plans(
        network.network_arch_class_name,
        network.network_arch_init_kwargs,
        network.network_arch_init_kwargs_req_import,
        len(content["channel_names"]),
        len(content["labels"]),
        allow_init=True,
        deep_supervision=False,
    )
    folder = results / NAME / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    for name in ("dataset.json", "nnUNetPlans.json"):
        shutil.copy((raw if name == "dataset.json" else prepared) / NAME / name, folder / ("plans.json" if "Plans" in name else name))
    checkpoint = {
        "network_weights": model.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    size = sum(weight.numel() for weight in model.parameters())
    patch, spacing = network.patch_size, network.spacing
    print(json.dumps({"patch_size": list(map(int, patch)), "spacing_mm": list(map(float, spacing)), "num_parameters": size}))


if __name__ == "__main__":
    main()
