"""The two families of errors: theirs (PeerError) and the user's (ConfigError).

Anything else that is raised is a bug of ours: it ends the process loudly, systemd restarts it, and
the state on disk is safe.
"""


class PeerError(Exception):
    """A peer sent something that breaks a rule of the protocol: log it, count it, drop it.

    The message is the reason that travels back to the peer, so it never quotes the peer's bytes.
    """


class ConfigError(Exception):
    """A setting, a file or a permission is wrong; the message names it and the remedy in one
    line.
    """
