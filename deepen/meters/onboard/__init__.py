"""Sensors of the device itself, read through files and commands, here or across a link."""
