"""What every other folder may use; it imports nothing of torch or mm here."""
