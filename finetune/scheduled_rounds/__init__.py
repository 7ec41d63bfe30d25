"""Jobs whose clients train when a scheduler says so: over Flower's Grid, in computed or in real time."""
