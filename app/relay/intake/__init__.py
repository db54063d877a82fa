"""What happens to a request of the relay before a call is admitted: token, path, slot, body, dimensions."""
