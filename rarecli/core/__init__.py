"""The library. It knows no command line."""
