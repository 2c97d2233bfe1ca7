"""Runtimes: inference engines on a device."""
