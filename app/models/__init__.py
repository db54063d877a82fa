"""Tables. Nobody but repositories looks here."""
