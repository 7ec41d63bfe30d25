"""Who may ask for what, how often, how much of it, and what they have used."""
