"""What payers and loads do to the devices: drawn from statistics of real data, or replayed from a real file."""
