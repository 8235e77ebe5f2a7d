"""What people can ask for: a router for each group of commands.

A handler of a message returns a `Card`, one of a press returns `Pressed`; the
dispatcher sends them.
"""
