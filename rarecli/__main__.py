"""`python -m rarecli` is `rare`."""

from rarecli.cli import main

if __name__ == "__main__":
    main()
