"""Serve a bundle with Triton: render the model repository, and run the router and the depths on the server."""
