"""Tools that make faults in a running stack, and the tests that measure each of them."""
