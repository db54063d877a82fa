"""Webhook endpoints of organizations, and signed deliveries to them."""
