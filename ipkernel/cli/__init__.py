"""The command line: ``ipcluster``, ``ipcontroller``, ``ipdaemon``, ``ipengine``."""
