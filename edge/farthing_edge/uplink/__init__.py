"""The way to the cloud: batches up, receipts and directives down, over a line that breaks."""
