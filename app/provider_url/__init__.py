"""Provider URLs: the validated type, the policy for host names and addresses, and the DNS check."""
