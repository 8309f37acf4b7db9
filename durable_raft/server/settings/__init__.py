"""What an operator sets, and where it is read from."""
