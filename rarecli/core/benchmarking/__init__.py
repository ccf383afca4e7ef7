"""The parts of `rare benchmark`: what to measure, how, and what to make of it."""
