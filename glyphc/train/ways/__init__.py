"""Ways of a product of two encrypted operands: layouts of a layer's weights, and the choice among them."""
