"""The gateway daemon: decides near the devices, keeps the evidence, sends signed aggregates to the cloud."""
