"""Provider credentials and their key versions, masked by construction."""
