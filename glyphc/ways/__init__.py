"""Ways of computing an op, conversions between spaces, and the choice among them."""
