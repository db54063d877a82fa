"""Provider URLs: the validated type, the policy on names and addresses, the DNS check."""
