"""`python -m quantize` is the `quantize` command."""

from quantize.cli import main

if __name__ == "__main__":
    main()
