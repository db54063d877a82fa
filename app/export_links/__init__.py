"""Links to exports: a browser opens one without a token, once, within a minute."""
