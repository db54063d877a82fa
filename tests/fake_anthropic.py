"""`python -m tests.fake_anthropic [--port N]`: runs the fake provider, to try the service without a real key."""

from tests.support.provider.fake_anthropic import main

if __name__ == "__main__":
    main()
