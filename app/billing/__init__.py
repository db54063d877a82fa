"""Billing: subscriptions, monthly statements and the preview of a usage mode switch."""
