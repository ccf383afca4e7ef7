"""Serve a bundle with Triton: render the model repository, and run the router and the entries on the server."""
