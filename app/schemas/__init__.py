"""Wire shapes: what comes in is checked, what goes out is masked."""
