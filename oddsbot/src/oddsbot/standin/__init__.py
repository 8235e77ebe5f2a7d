"""Stand-ins: services that a bot talks to, on this machine, without account or network.

They know nothing of the bot, and of oddswire the listener alone, so that they judge
both from outside.
"""
