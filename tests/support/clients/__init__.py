"""Clients that are generated from the OpenAPI document, and programs that use them."""
