"""Business makes the decisions: it places orders, pays, settles, reconciles."""
