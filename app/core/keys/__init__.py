"""Keys and secrets as values: they never show themselves, and pasted texts are judged before they become one."""
