"""Score predictions against reference labels: Dice and related metrics, per resolution."""
