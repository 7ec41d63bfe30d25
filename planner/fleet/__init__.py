"""`motley plan fleet`: from a file to a verified plan, and what can be asked of one."""
