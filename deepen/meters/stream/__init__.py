"""Streaming instruments: port, conversation, capture, and the meter around them."""
