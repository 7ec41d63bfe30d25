"""Where replicas come from while the router runs: files, DNS, commands."""
