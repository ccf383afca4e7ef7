"""A bundle behind a Triton server: rendering its model repository, and what the server runs of it."""
