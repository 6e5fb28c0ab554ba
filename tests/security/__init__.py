"""What a stranger may try: every check of reliability's security list that this milestone has."""
