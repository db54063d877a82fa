"""`python -m app.cli`, which is `byok`."""

from app.cli.commands import main

if __name__ == "__main__":
    main()
