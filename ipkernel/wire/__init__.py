"""How the processes of a cluster talk: identity, doors, channels, frames, messages.

This package knows no other part of ipkernel. Engines import its sans-io modules
(:mod:`~ipkernel.wire.link`, :mod:`~ipkernel.wire.messages`), so nothing here may be
imported that pulls in Twisted or Foolscap by itself.
"""
