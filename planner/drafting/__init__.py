"""What drafting costs and what it brings: cost curves, trees, acceptance, and predictions of them."""
