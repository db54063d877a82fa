"""Cells: schemas that have all tables of some organizations; which has whose rows, and moves between them."""
