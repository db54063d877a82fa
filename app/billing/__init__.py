"""Subscriptions, monthly statements, previews."""
