"""How a device's bytes reach a gateway. No transport here knows what they mean."""
