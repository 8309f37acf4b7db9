"""THE COMMANDS: click; each opens one object and calls one method."""
