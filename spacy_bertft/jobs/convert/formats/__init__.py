"""The formats of annotated files, one file each: how to recognise it, read it and, for some, write it."""
