"""The host daemon: starts, feeds, watches and ends the engines of one machine."""
