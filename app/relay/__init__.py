"""The relay for Anthropic's Messages API: an unchanged SDK works on the organization's own key."""
