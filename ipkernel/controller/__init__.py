"""The controller: the one process of a cluster that clients and host daemons connect to.

Inside is a scheduler without any input or output (:mod:`~ipkernel.controller.scheduler`); around
it a thin shell of channels and Foolscap doors (:mod:`~ipkernel.controller.service`). Nothing here
looks into payloads, and nothing here can unpickle.
"""
