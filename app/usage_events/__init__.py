"""Usage events as clients report them: decoded, checked, and divided into the parts that are priced."""
