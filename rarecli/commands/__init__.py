"""One file per subcommand: parse the options, make one call into core, print the result."""
