"""Code that every part of the service uses: errors, time, money, keys in memory, private files."""
