"""Who pays the provider: managed or bring-your-own-key, from when on."""
