"""From a data directory, or a backup, to what a node begins with."""
