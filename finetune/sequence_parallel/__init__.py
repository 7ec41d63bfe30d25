"""Training whose sequences are shared by groups of devices, as a training plan says."""
