"""Least privilege: the table, and every part run as its user."""
