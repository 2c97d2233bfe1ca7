"""Links: ways to reach a device."""
