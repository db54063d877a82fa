"""The usage mode of an organization: who pays the provider, and from when."""
