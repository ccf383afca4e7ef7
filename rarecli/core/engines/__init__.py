"""From a trained network to deployable engines, and running them."""
