"""The private joins as sans-I/O state machines: a step takes a message and returns (state, message)."""
