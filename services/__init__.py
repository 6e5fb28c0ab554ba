"""The three tiers of Tercet: access, business, data, and the modules they share."""
