"""The device itself, without clock, radio, storage or element: what it must say and when."""
