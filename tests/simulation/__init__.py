"""A simulation of paying: the real code of business in virtual time, each choice from a seed."""
