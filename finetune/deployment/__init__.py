"""A job on real Flower processes: certificates, the server's side, a client's side."""
