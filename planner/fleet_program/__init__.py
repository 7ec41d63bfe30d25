"""The fleet program: the cheapest integer replica counts and continuous shares, with a bound."""
