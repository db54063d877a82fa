"""The billing page: its files, the headers under which a browser runs them, and sign-in for development.

The page itself is in `files/`: ES modules that run as they are. It uses only the public API.
"""
