"""Export a trained network to deployable engines, and run them."""
