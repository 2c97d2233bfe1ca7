"""Power monitors, one driver each: a pure parser of its bytes, and the conversation around it."""
