"""The Python functions, one per command, and their results. `import rarecli` gives them all, each imported when it is first used."""
