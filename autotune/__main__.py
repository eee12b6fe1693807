"""`python -m autotune`, the same as `autotune`."""

from autotune.cli.main import main

if __name__ == "__main__":  # worker processes import this file too
    main()
