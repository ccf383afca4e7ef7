"""One file per subcommand: options in, one core call, results out."""
