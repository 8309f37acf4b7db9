"""THE DISK: the only room that imports lmdb."""
