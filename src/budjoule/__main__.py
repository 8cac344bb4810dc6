"""`python -m budjoule` is the same as `budjoule`."""

from budjoule.cli.main import main

if __name__ == "__main__":
    main()
