"""What a user's program holds: clients, views, results, decorators and executors.

Nothing is imported here: :mod:`ipkernel` names what is public and loads it on first use.
"""
