"""`motley plan profile`: measured replicas, taken from a live endpoint or from the files of other tools."""
